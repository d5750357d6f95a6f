"""The NumPy backend's executable: programs for threads of its own, bound to the caller's arrays where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np

from graphir.backends.blas import single_threaded_blas
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.compiled.locations import Rank
from graphir.backends.compiled.program import Program
from graphir.backends.machine import default_threads
from graphir.backends.numpy.engine import ENGINE, reserve
from graphir.backends.numpy.profile import Profile
from graphir.backends.numpy.profiler import Profiler
from graphir.backends.numpy.results import ResultBuffers
from graphir.backends.numpy.threads import Team
from graphir.backends.plan import ExecutionPlan
from graphir.errors import InputError
from graphir.ir.graph import Graph
from graphir.ir.value import Value

#: Arguments up to this many bytes are copied into the program's own buffers.
_SMALL = 1 << 16


class NumpyExecutable(CompiledExecutable):
    """As `CompiledExecutable`, on NumPy arrays and `threads`, as many as there are processors unless given.

    Results belong to the caller: a buffer that is still held when the next run begins is replaced by a new one.
    """

    def __init__(
        self, reference: ExecutionPlan, optimised: Graph, *, threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(reference, optimised, ENGINE, threads=threads or default_threads(), **options)

    @cached_property
    def _team(self) -> Team:
        return Team(self.threads)

    def _begin(self, rank: Rank) -> Program:
        return Program(rank, self.threads, self._team.meeting if self.threads > 1 else None)

    def _write(self, rank: int, before: Mapping[int, Program]) -> Program:
        program = super()._write(rank, before)
        results = [value for value in self.optimised.outputs if value not in self.prepared.overwriting]
        arrays = program.rank.arrays
        program.find_relocations({value: arrays[value] for value in (*self.optimised.arguments, *results)})
        return program

    def _computing(self) -> AbstractContextManager[object]:
        return single_threaded_blas()

    def _run_segment(self, rank: int, index: int) -> None:
        self._team.run(self.programs[rank].current[index].calls)

    def profile(self, *arguments: Mapping[str, Any], repetitions: int = 10) -> Profile:
        """Where the time of a run with these arguments goes; see `graphir.backends.numpy.profiler`.

        The graph is run once to warm up, then `repetitions` times with a clock in hand, and as often without. Errors:
        as of a run, and ConfigError for less than one repetition.
        """
        self(*arguments)
        profiler = Profiler(self.prepared.tasks, self.programs, self.communicator.ranks, self._team)
        exchange = profiler.timing(self._exchange_blocks)
        return profiler.measure(
            lambda: self(*arguments), lambda: self._run(arguments, profiler.run_segment, exchange), repetitions
        )

    # -- arguments ------------------------------------------------------------------------------------

    def _protected(self, value: Value, array: Any) -> Any:
        if value not in self._donated:
            return super()._protected(value, array)
        if not array.flags.writeable:
            raise InputError(f"{value.name} is updated in place, but the array is read-only; compile with donate=False")
        return array

    def _stand_in(self, shape: Sequence[int], dtype: str) -> Array:
        # Before any call is made, all are bound to what the caller hands in and gets: until then addresses will do.
        return reserve(shape, dtype)

    def _hand_in(self, program: Program, value: Value, block: Array) -> None:
        held, copied = program.bound(value), program.rank.copied
        if block.nbytes <= _SMALL or value.dtype == "text" or not self._can_be_read_in_place(value, block):
            if held is None or value not in copied:
                held = np.empty(block.shape, block.dtype)
                self._bind(program, value, held)
                copied.add(value)
            held[...] = block
        elif held is None or (held is not block and not _is_same(held, block)):
            # Before it is bound: what is a caller's must not be taken for the program's own.
            copied.discard(value)
            self._bind(program, value, block)

    def _bind(self, program: Program, value: Value, array: Array) -> None:
        program.bind(value, array)
        if value in self._overwritten:
            program.rank.arrays[self._overwritten[value]] = array

    @cached_property
    def _overwritten(self) -> dict[Value, Value]:
        """For each argument that is written over the result that is."""
        return {old: new for new, old in self.prepared.overwriting.items()}

    def _can_be_read_in_place(self, value: Value, block: Array) -> bool:
        # Where replicas have one block, the first would overwrite what the second still reads.
        overwritten = value in self.prepared.updates and self._is_replicated(value)
        return block.flags.c_contiguous and block.flags.aligned and not overwritten

    # -- results --------------------------------------------------------------------------------------

    def _prepare_run(self) -> None:
        # A run writes over nothing that a caller still holds.
        for buffers in self._results.values():
            buffers.renew()

    @cached_property
    def _results(self) -> dict[tuple[int, Value], ResultBuffers]:
        """The buffers of every rank's results, but for those that overwrite an argument."""

        guests: dict[Value, list[Value]] = {}
        for value, result in self.prepared.arena.in_results.items():
            guests.setdefault(result, []).append(value)

        def bind(program: Program, value: Value) -> Callable[[Array], None]:
            def to(array: Array) -> None:
                program.bind(value, array)
                program.rank.arrays.update((guest, array) for guest in guests.get(value, ()))

            return to

        arguments, shapes = frozenset(self.optimised.arguments), self.prepared.steps.shapes
        own = [v for v in self.optimised.outputs if v not in arguments and v not in self.prepared.overwriting]
        return {
            (rank, value): ResultBuffers(shapes[value], value.dtype, bind(program, value))
            for rank, program in enumerate(self.programs)
            for value in own
        }

    def _hand_out(self, value: Value, given: Any) -> Any:
        blocks = self._blocks(value)
        made = self.local.join(value, blocks)
        # Who hands in the whole of what this process keeps a block of goes on with the block.
        if given is not None and given.shape == made.shape:
            if ENGINE.address(given) != ENGINE.address(made):
                np.copyto(given, made)
            return given
        rank = next((rank for rank, block in enumerate(blocks) if made is block), None)
        if rank is None:
            return made
        if (rank, value) in self._results:
            return self._results[rank, value].lend()
        is_own = self.prepared.overwriting[value] in self.programs[rank].rank.copied
        return made.copy() if is_own else made


def _is_same(one: Array, other: Array) -> bool:
    """Whether two arrays, both alive, of one shape and dtype, C-contiguous, are the same memory."""
    if one.base is not other.base:
        return False
    # Of a base that is no larger than they are both show all; asking where they lie takes microseconds.
    return getattr(one.base, "nbytes", None) == one.nbytes or ENGINE.address(one) == ENGINE.address(other)


__all__ = ["NumpyExecutable"]
