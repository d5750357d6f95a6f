"""What the executables of all engines share: programs for the ranks held here, run segment by segment."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from graphir.backends.buckets import LIMIT
from graphir.backends.communicator import Communicator, Traffic
from graphir.backends.compiled.buffers import Scratch
from graphir.backends.compiled.emission import Array, Kernels
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.exchanges import Exchanges
from graphir.backends.compiled.memory import MemoryPlan
from graphir.backends.compiled.prepared import Prepared
from graphir.backends.compiled.program import Program
from graphir.backends.compiled.writer import Rank
from graphir.backends.executable import Executable, Run, Watch
from graphir.backends.plan import ExecutionPlan, Step, places
from graphir.ir.graph import Graph, Node
from graphir.ir.operator import Place
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


class CompiledExecutable(Executable, ABC):
    """As `Executable`, compiled: `optimised` is what runs, the plan's graph what it was made from and is checked by.

    With `donate`, parameters and state that the graph updates are overwritten where they are. With `share_replicas`,
    what simulated ranks would all compute alike one of them computes for all. `kernels` are for what may be fused,
    `bucket` is how many bytes travel together between processes.
    """

    def __init__(
        self,
        reference: ExecutionPlan,
        optimised: Graph,
        engine: Engine,
        *,
        threads: int = 1,
        donate: bool = False,
        share_replicas: bool = False,
        algorithm: str = "ring",
        source: Graph | None = None,
        communicator: Communicator | None = None,
        bucket: int = LIMIT,
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__(reference, algorithm, source, communicator, engine.xp)
        self.engine, self.threads, self.kernels = engine, threads, kernels
        self.optimised, self.donate, self.bucket = optimised, donate, bucket
        self.prepared = Prepared(optimised, reference.sizes, engine, threads, donate, share_replicas, kernels)

    @property
    def memory(self) -> MemoryPlan:
        """What one rank needs, as planned."""
        return self.prepared.memory

    # -- programs -------------------------------------------------------------------------------------

    @cached_property
    def _scratch(self) -> list[Scratch]:
        return [Scratch(self.engine) for _ in range(self.threads)]

    @cached_property
    def programs(self) -> list[Program]:
        """The program of each rank that is held here, written when it is first needed."""
        programs: dict[int, Program] = {}
        for rank in self.communicator.ranks:
            programs[rank] = self._write(rank, programs)
        return list(programs.values())

    def _write(self, rank: int, before: Mapping[int, Program]) -> Program:
        shapes = self.prepared.steps.shapes
        arrays = self._allocate()
        known = frozenset(self.prepared.packed), self._places(rank), self.prepared.steps.sizes
        program = self._begin(Rank(self.engine, arrays, *known, self.kernels))
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
                    private[outer] = self.engine.empty((self.threads, *shapes[outer]), outer.dtype)
            program.add_task(task, homes, self._scratch, private)
        return program

    def _allocate(self) -> dict[Value, Array]:
        """A buffer for each of the graph's values: in one arena, but for arguments, results and what is shared."""
        prepared = self.prepared
        memory = self.engine.allocate(prepared.arena.size)
        arrays: dict[Value, Array] = {}
        for value, shape in prepared.steps.shapes.items():
            if value in prepared.overwriting or value in prepared.arena.hosted:
                continue
            offset = prepared.arena.offsets.get(value)
            if value in prepared.packed:
                shape = (prepared.packed[value] // DTYPES[value.dtype],)
            if offset is None or value.dtype == "text":
                arrays[value] = self.engine.empty(shape, object if value.dtype == "text" else value.dtype)
            else:
                arrays[value] = self.engine.view(memory, shape, value.dtype, offset)
        arrays.update((new, arrays[old]) for new, old in prepared.overwriting.items())
        arrays.update((value, arrays[result]) for value, result in prepared.arena.hosted.items())
        return arrays

    def _places(self, rank: int) -> dict[Node, Place]:
        """Where the rank's blocks lie, of each node that asks."""
        sizes, mesh = self.prepared.steps.sizes, self.optimised.mesh
        found = {}
        for task in self.prepared.tasks:
            for node in task.nodes:
                if "at" in node.operator.keywords:
                    factors = {name: dim.size(sizes) for name, dim in node.inference.factors.items()}
                    found[node] = places(node, mesh, factors)[rank]
        return found

    # -- what an engine's executable does its own way -------------------------------------------------

    def _begin(self, rank: Rank) -> Program:
        """An empty program."""
        return Program(rank, self.threads)

    @abstractmethod
    def _computing(self) -> AbstractContextManager[object]:
        """What holds while a run's segments and exchanges are carried out."""

    @abstractmethod
    def _hand_in(self, program: Program, value: Value, block: Any) -> None:
        """Makes a program read a block of an argument."""

    def _prepare_run(self) -> None:
        """What is to be done when all arguments are handed in, before the first segment."""

    @abstractmethod
    def _run_segment(self, rank: int, index: int) -> None:
        """Carries out a segment; `rank` counts those that are held here."""

    @abstractmethod
    def _hand_out(self, value: Value, given: Any) -> Any:
        """What the caller gets for a result; `given` is the argument that it updates in place, if it does."""

    # -- running --------------------------------------------------------------------------------------

    def __call__(self, *arguments: Mapping[str, Any], watch: Watch | None = None) -> Run:
        """As `Executable.__call__`; with `watch`, the reference kernels run, node by node."""
        if watch is not None:
            return super().__call__(*arguments, watch=watch)
        return self._run(arguments, self._run_segment, self._exchange_blocks)

    def _run(
        self,
        arguments: tuple[Mapping[str, Any], ...],
        run_segment: Callable[[int, int], None],
        exchange: Callable[[Step], Traffic],
    ) -> Run:
        """A run, of which each segment of each rank held here, and each exchange, is carried out as given."""
        given = self._check(arguments)
        self._check_all_indices(given)
        traffic: dict[str, Traffic] = {}
        programs, exchanges = self.programs, self._exchanges
        # After a run that failed some may be under way still.
        exchanges.settle_all()
        with self._computing():
            by_name = {value.name: value for value in self.optimised.arguments}
            for value, array in given.items():
                for program, block in zip(programs, self.split(value, array), strict=True):
                    self._hand_in(program, by_name[value.name], block)
            self._prepare_run()
            for index in range(len(exchanges.steps) + 1):
                exchanges.settle(index)
                for rank in range(len(programs)):
                    run_segment(rank, index)
                if index < len(exchanges.steps):
                    step = exchanges.steps[index]
                    traffic[step.node.name] = exchange(step)
            exchanges.settle_all()
            results = self._collect(given)
        return Run(self, results, traffic, arguments)

    def _exchange_blocks(self, step: Step) -> Traffic:
        return self._exchanges.carry_out(step)

    @cached_property
    def _exchanges(self) -> Exchanges:
        steps = self.prepared.steps
        return Exchanges(steps.steps, steps.shapes, self.communicator, self.engine, self._blocks, self.bucket)

    def _blocks(self, value: Value) -> list[Array]:
        """Each held rank's array of a value."""
        return [program.rank.arrays[value] for program in self.programs]

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

    def _is_replicated(self, value: Value) -> bool:
        """Whether two of the ranks held here have the same block of a value."""
        blocks = math.prod(self.mesh.count(axes) for axes in value.type.layout.splits)
        return len(self.communicator.ranks) > blocks

    def _collect(self, given: Mapping[Value, Any]) -> dict[str, tuple[Value, Any]]:
        by_name = {value.name: array for value, array in given.items()}
        updated = {new: old for old, new in self.optimised.updates.items()} if self.donate else {}
        results: dict[str, tuple[Value, Any]] = {}
        for wanted, value in zip(self.graph.outputs, self.optimised.outputs, strict=True):
            old = by_name[updated[value].name] if value in updated else None
            results[self.fetched.titles[wanted]] = wanted, self._hand_out(value, old)
        return results
