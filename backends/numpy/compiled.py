"""The NumPy backend's executable: programs for threads of its own, bound to the caller's arrays where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np

from graphir.backends.blas import single_threaded_blas
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.compiled.locations import Rank
from graphir.backends.compiled.program import Program
from graphir.backends.numpy.engine import ENGINE
from graphir.backends.numpy.profile import Profile
from graphir.backends.numpy.profiler import Profiler
from graphir.backends.numpy.results import ResultBuffers
from graphir.backends.numpy.threads import Team, default_threads
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
        self._team.run(self.programs[rank].segments[index].calls)

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

    def _hand_in(self, program: Program, value: Value, block: Array) -> None:
        arrays, copied = program.rank.arrays, program.rank.copied
        held = arrays[value]
        if block.nbytes <= _SMALL or value.dtype == "text" or not self._can_be_read_in_place(value, block):
            if value not in copied:
                arrays[value] = np.empty(block.shape, block.dtype)
                program.bind(value, arrays[value])
                copied.add(value)
            arrays[value][...] = block
        elif block.ctypes.data != held.ctypes.data or held.base is not block.base:
            arrays[value] = block
            program.bind(value, block)
            copied.discard(value)
        else:
            return
        for new, old in self.prepared.overwriting.items():
            if old is value:
                arrays[new] = arrays[old]

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
        for value, result in self.prepared.arena.hosted.items():
            guests.setdefault(result, []).append(value)

        def bind(program: Program, value: Value) -> Callable[[Array], None]:
            def to(array: Array) -> None:
                program.rank.arrays.update((each, array) for each in (value, *guests.get(value, ())))
                program.bind(value, array)

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
        made = self.join(value, blocks)
        lent = next((rank for rank, block in enumerate(blocks) if made is block), None)
        # Who hands in the whole of what this process keeps a block of goes on with the block.
        if given is None or given.shape != made.shape:
            buffers = None if lent is None else self._results.get((lent, value))
            return made if buffers is None else buffers.lend()
        if given.ctypes.data != made.ctypes.data:
            np.copyto(given, made)
        return given


__all__ = ["NumpyExecutable"]
