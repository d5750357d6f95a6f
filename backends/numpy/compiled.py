"""The compiled executable: an optimised graph as a program for each simulated rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.backends.blas import single_threaded_blas
from graphir.backends.buckets import LIMIT
from graphir.backends.communicator import Communicator, Traffic
from graphir.backends.executable import Executable, Run, Watch
from graphir.backends.compiled.buffers import Scratch, aligned
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.exchanges import Exchanges
from graphir.backends.compiled.memory import MemoryPlan
from graphir.backends.compiled.prepared import Prepared
from graphir.backends.numpy.profile import Profile
from graphir.backends.numpy.profiler import Profiler
from graphir.backends.compiled.program import Program
from graphir.backends.compiled.results import ResultBuffers
from graphir.backends.numpy.threads import Team, default_threads
from graphir.backends.compiled.writer import Rank
from graphir.backends.plan import ExecutionPlan, Step, places
from graphir.errors import InputError
from graphir.ir.graph import Graph
from graphir.ir.types import DTYPES
from graphir.ir.value import Value

if TYPE_CHECKING:
    from graphir.backends.numpy.fast import Kernels


class CompiledExecutable(Executable):
    """As `Executable`, compiled: `optimised` is what runs, the plan's graph what it was made from and is checked by.

    Results belong to the caller: a buffer that is still held when the next run begins is replaced by a new one.
    With `donate`, parameters and state that the graph updates are overwritten where they are. With `share_replicas`,
    what simulated ranks would all compute alike one of them computes for all. `kernels` are for what may be fused.
    """

    def __init__(
        self,
        reference: ExecutionPlan,
        optimised: Graph,
        *,
        threads: int | None = None,
        donate: bool = False,
        share_replicas: bool = False,
        algorithm: str = "ring",
        source: Graph | None = None,
        communicator: Communicator | None = None,
        bucket: int = LIMIT,
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__(reference, algorithm, source, communicator)
        self.kernels = kernels
        self.optimised, self.donate, self.bucket = optimised, donate, bucket
        self.threads = threads or default_threads()
        self.prepared = Prepared(optimised, reference.sizes, self.threads, donate, share_replicas)

    @property
    def memory(self) -> MemoryPlan:
        """What one rank needs, as planned."""
        return self.prepared.memory

    # -- programs -------------------------------------------------------------------------------------

    @cached_property
    def _scratch(self) -> list[Scratch]:
        return [Scratch() for _ in range(self.threads)]

    @cached_property
    def _team(self) -> Team:
        return Team(self.threads)

    @cached_property
    def programs(self) -> list[Program]:
        """The program of each rank that is held here, written when it is first needed."""
        programs: dict[int, Program] = {}
        for rank in self.communicator.ranks:
            programs[rank] = self._write(rank, programs)
        return list(programs.values())

    def _write(self, rank: int, before: Mapping[int, Program]) -> Program:
        graph, shapes = self.optimised, self.prepared.steps.shapes
        memory = aligned(self.prepared.arena.size)
        arrays: dict[Value, Array] = {}
        for value, shape in shapes.items():
            offset = self.prepared.arena.offsets.get(value)
            if value.dtype == "text":
                arrays[value] = np.empty(shape, object)
                continue
            if value in self.prepared.packed:
                shape = (self.prepared.packed[value] // DTYPES[value.dtype],)
            if offset is not None:
                arrays[value] = np.ndarray(shape, value.dtype, memory.data, offset)
            else:
                arrays[value] = np.empty(shape, value.dtype)
        arrays.update((new, arrays[old]) for new, old in self.prepared.overwriting.items())
        at = {}
        for task in self.prepared.tasks:
            for node in task.nodes:
                if "at" in node.operator.keywords:
                    factors = {
                        name: dim.size(self.prepared.steps.sizes) for name, dim in node.inference.factors.items()
                    }
                    at[node] = places(node, graph.mesh, factors)[rank]
        packed, sizes = frozenset(self.prepared.packed), self.prepared.steps.sizes
        program = Program(Rank(arrays, packed, at, sizes, self.kernels), self._team)
        for task, homes in zip(self.prepared.tasks, self.prepared.homes, strict=True):
            if task.node.operator.relayout is not None:
                program.begin_segment()
                continue
            maker = self.prepared.maker(task, rank)
            if maker in before:
                made = [task.outer[inner] for inner in task.leaving]
                # Replicas read what the first of them has made: ranks are run in their order.
                arrays.update((value, before[maker].rank.arrays[value]) for value in made)
                continue
            private: dict[Value, Array] = {}
            for inner in task.leaving:
                if inner in task.private:
                    outer = task.outer[inner]
                    private[outer] = np.empty((self.threads, *shapes[outer]), outer.dtype)
            program.add_task(task, homes, self._scratch, private)
        results = [value for value in graph.outputs if value not in self.prepared.overwriting]
        program.find_relocations({value: arrays[value] for value in (*graph.arguments, *results)})
        return program

    # -- running --------------------------------------------------------------------------------------

    def __call__(self, *arguments: Mapping[str, Any], watch: Watch | None = None) -> Run:
        """As `Executable.__call__`; with `watch`, the reference kernels run, node by node."""
        if watch is not None:
            return super().__call__(*arguments, watch=watch)
        return self._run(arguments, self._run_segment, self._exchange_blocks)

    def profile(self, *arguments: Mapping[str, Any], repetitions: int = 10) -> Profile:
        """Where the time of a run with these arguments goes; see `graphir.backends.numpy.profiler`.

        The graph is run once to warm up, then `repetitions` times with a clock in hand, and as often without. Errors:
        as of a run, and ConfigError for less than one repetition.
        """
        self(*arguments)
        profiler = Profiler(self.prepared.tasks, self.programs, self.communicator.ranks)
        exchange = profiler.timing(self._exchange_blocks)
        return profiler.measure(
            lambda: self(*arguments), lambda: self._run(arguments, profiler.run_segment, exchange), repetitions
        )

    def _run(
        self,
        arguments: tuple[Mapping[str, Any], ...],
        run_segment: Callable[[int, int], None],
        exchange: Callable[[Step], Traffic],
    ) -> Run:
        """A run, of which each segment of each rank held here, and each exchange, is carried out as given."""
        given = self._check(arguments)
        self._check_all_indices(given)
        self._bind_arguments(given)
        for buffers in self._results:
            buffers.renew()
        traffic: dict[str, Traffic] = {}
        exchanges = self._exchanges
        # After a run that failed some may be under way still.
        exchanges.settle_all()
        with single_threaded_blas():
            for index in range(len(exchanges.steps) + 1):
                exchanges.settle(index)
                for rank in range(len(self.programs)):
                    run_segment(rank, index)
                if index < len(exchanges.steps):
                    step = exchanges.steps[index]
                    traffic[step.node.name] = exchange(step)
        exchanges.settle_all()
        return Run(self, self._collect(given), traffic)

    def _run_segment(self, rank: int, index: int) -> None:
        self._team.run(self.programs[rank].segments[index].calls)

    def _exchange_blocks(self, step: Step) -> Traffic:
        return self._exchanges.carry_out(step)

    @cached_property
    def _exchanges(self) -> Exchanges:
        def blocks(value: Value) -> list[Array]:
            return [program.rank.arrays[value] for program in self.programs]

        return Exchanges(self.prepared.steps.steps, self.prepared.steps.shapes, self.communicator, blocks, self.bucket)

    def _check_all_indices(self, given: Mapping[Value, Any]) -> None:
        """Ids out of range would read or write past a buffer; those that are arguments are looked at first."""
        for step, slot, count, exempt in self._indexed:
            self._check_indices(step, given[slot], count, exempt)

    @cached_property
    def _indexed(self) -> list[tuple[Step, Value, int, int | None]]:
        arguments = {self.plan.slots[value]: value for value in self.graph.arguments}
        return [
            (step, arguments[slot], count, exempt)
            for step in self.plan.steps
            for slot, count, exempt in step.indices
            if slot in arguments
        ]

    @cached_property
    def _donated(self) -> frozenset[Value]:
        """The arguments that are overwritten where they are."""
        return frozenset(self.graph.updates) if self.donate else frozenset()

    def _protected(self, value: Value, array: Any) -> Any:
        if value not in self._donated:
            return super()._protected(value, array)
        if not array.flags.writeable:
            raise InputError(f"{value.name} is updated in place, but the array is read-only; compile with donate=False")
        return array

    # -- buffers --------------------------------------------------------------------------------------

    def _bind_arguments(self, given: Mapping[Value, Any]) -> None:
        """Makes every program read the caller's arrays."""
        by_name = {value.name: value for value in self.optimised.arguments}
        for value, array in given.items():
            mine = by_name[value.name]
            for program, block in zip(self.programs, self.split(value, array), strict=True):
                self._bind(program, mine, block)

    def _bind(self, program: Program, value: Value, block: Array) -> None:
        arrays, copied = program.rank.arrays, program.rank.copied
        held = arrays[value]
        # Small ones, and parts of a whole, are copied; the others are read where they are.
        if block.nbytes <= _SMALL or not block.flags.c_contiguous or not block.flags.aligned or value.dtype == "text":
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

    @cached_property
    def _results(self) -> list[ResultBuffers]:
        """The buffers of every rank's results, but for those that overwrite an argument."""

        def bind(program: Program, value: Value) -> Callable[[Array], None]:
            def to(array: Array) -> None:
                program.rank.arrays[value] = array
                program.bind(value, array)

            return to

        arguments, shapes = frozenset(self.optimised.arguments), self.prepared.steps.shapes
        own = [v for v in self.optimised.outputs if v not in arguments and v not in self.prepared.overwriting]
        return [
            ResultBuffers(shapes[value], value.dtype, bind(program, value))
            for program in self.programs
            for value in own
        ]

    def _collect(self, given: Mapping[Value, Any]) -> dict[str, tuple[Value, Any]]:
        by_name = {value.name: array for value, array in given.items()}
        updated = {new: old for old, new in self.optimised.updates.items()} if self.donate else {}
        results: dict[str, tuple[Value, Any]] = {}
        for wanted, value in zip(self.graph.outputs, self.optimised.outputs, strict=True):
            blocks = [program.rank.arrays[value] for program in self.programs]
            made = self.join(value, blocks)
            if value in updated:
                target = by_name[updated[value].name]
                # Who hands in the whole of what this process keeps a block of goes on with the block.
                if target.shape == made.shape:
                    if target.ctypes.data != made.ctypes.data:
                        np.copyto(target, made)
                    made = target
            results[self.graph.origin(wanted).name] = wanted, made
        return results


#: Arguments up to this many bytes are copied into the program's own buffers.
_SMALL = 1 << 16


__all__ = ["CompiledExecutable"]
