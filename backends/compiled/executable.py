"""What the executables of all engines share: programs for the ranks held here, run segment by segment."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from graphir.backends.buckets import LIMIT
from graphir.backends.capacity import require_planned
from graphir.backends.communicator import Communicator, Traffic
from graphir.backends.compiled.assignment import TaskBuffer
from graphir.backends.compiled.buffers import Scratch
from graphir.backends.compiled.donation import Donation
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.exchanges import Exchanges
from graphir.backends.compiled.following import Following
from graphir.backends.compiled.kernels import Kernels
from graphir.backends.compiled.locations import Rank
from graphir.backends.compiled.memory import MemoryPlan
from graphir.backends.compiled.prepared import Prepared
from graphir.backends.compiled.program import Program
from graphir.backends.compiled.report import Report, report_of
from graphir.backends.compiled.segment import Segment
from graphir.backends.compiled.sights import Views
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.executable import Executable, Run, Watch
from graphir.backends.plan import ExecutionPlan, Places, Step
from graphir.backends.trace import ThreadTrace, Trace
from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph, Node
from graphir.ir.operator import Place
from graphir.ir.value import Value

if TYPE_CHECKING:
    from graphir.backends.proof import Proof


class CompiledExecutable(Executable, ABC):
    """As `Executable`, compiled: `optimised` is what runs, the plan's graph what it was made from and is checked by.

    With `donate`, parameters and state that the graph updates are overwritten where they are. With `share_replicas`,
    what simulated ranks would all compute alike one of them computes for all. `kernels` are for what may be fused,
    `bucket` is how many bytes travel together between processes. `tiling` is how tasks are cut, if not as the engine
    has it. With `check`, programs are proved as soon as they are written, at once: `proofs` says what that has shown.
    With `limited`, a plan that this machine has no memory for is refused.
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
        tiling: Tiling | None = None,
        check: bool = False,
        limited: bool = False,
    ) -> None:
        super().__init__(reference, algorithm, source, communicator, engine.xp)
        self.engine, self.threads, self.kernels = engine, threads, kernels
        self.optimised, self.bucket = optimised, bucket
        self.prepared = Prepared(optimised, reference.sizes, engine, threads, donate, share_replicas, kernels, tiling)
        told = tiling or engine.tiling
        self._following = Following(self.prepared.sights, told.grain, told.worth * self.prepared.sighted)
        self._donation = Donation(engine, self._donated)
        if limited:
            require_planned(reference, self.memory.arguments + self.working_bytes(), self.memory)
        self._checked = check
        self.proofs: list[Proof] = []
        #: What has been chosen of which rank's program and proved, and for what may be seen.
        self._proved: set[Hashable] = set()
        if check:
            for rank, program in enumerate(self.programs):
                self._prove(self.trace(rank))
                program.forget_steps()

    @property
    def memory(self) -> MemoryPlan:
        """What one rank needs, as planned."""
        return self.prepared.memory

    def report(self) -> Report:
        """Which nodes run their kernels as written, why, and what that costs; it prints well."""
        return report_of(self.programs, self.prepared.tasks)

    def working_bytes(self, alone: bool = False) -> int:
        """What the ranks held here take beside the caller's arrays, as planned; if `alone`, what a single one takes.

        That is arenas, results, scratch, and their own copies of arguments of which a block cannot be read in place.
        """
        plan, held = self.memory, 1 if alone else len(self.communicator.ranks)
        copied = plan.arguments if self.mesh.size > 1 else 0
        return held * (copied + plan.results + plan.arena + plan.shared) + plan.scratch

    # -- programs -------------------------------------------------------------------------------------

    def left_blocks(self, value: Value) -> Sequence[Any]:
        return self._blocks(self._left[value])

    @cached_property
    def _left(self) -> Mapping[Value, Value]:
        """The results, as the optimised graph has them."""
        return dict(zip(self.graph.outputs, self.optimised.outputs, strict=True))

    @cached_property
    def _scratch(self) -> list[Scratch]:
        return [Scratch(self.engine) for _ in range(self.threads)]

    @cached_property
    @without_collector
    def programs(self) -> list[Program]:
        """The program of each rank that is held here, written when it is first needed."""
        programs: dict[int, Program] = {}
        for rank in self.communicator.ranks:
            programs[rank] = self._write(rank, programs)
        return list(programs.values())

    def _write(self, rank: int, before: Mapping[int, Program]) -> Program:
        """The program of a rank."""
        arena = self.engine.allocate(self.prepared.arena.size)
        arrays = self._allocate(arena)
        known = (
            self.prepared.halves,
            self._places(rank),
            self.prepared.steps.sizes,
            frozenset(self.optimised.arguments),
        )
        program = self._begin(Rank(self.engine, arena, arrays, *known, self.kernels, self._checked))
        for task, assignment in zip(self.prepared.tasks, self.prepared.assignments, strict=True):
            if task.node.operator.relayout is not None:
                program.begin_segment()
                continue
            maker = self.prepared.maker(task, rank)
            if maker in before:
                made = [task.outer[inner] for inner in task.leaving]
                # Replicas read what the first of them has made: ranks are run in their order.
                arrays.update((value, before[maker].rank.arrays[value]) for value in made)
                continue
            program.add_task(task, assignment, self._scratch)
        if not self.prepared.sights:
            program.rank.recordings.forget()
        return program

    def _prove(self, trace: Trace) -> None:
        from graphir.backends.proof import prove  # late: who does not ask for a proof need not load it

        self.proofs.append(prove(trace))

    def trace(self, rank: int) -> Trace:
        """What the program of a rank, counted among those held here, does, as long as it is bound to no arguments."""
        return self._trace(rank, self.programs[rank].rank, self.programs[rank].segments, {})

    def _trace(self, rank: int, held: Rank, segments: Sequence[Segment], seen: Views) -> Trace:
        graph, prepared, arrays = self.optimised, self.prepared, held.arrays
        exchanges = self._exchanges_by(lambda value: [arrays[value]] * len(self.communicator.ranks))
        # What another rank has made for this one is there as arguments are.
        borrowed = [
            task.outer[inner]
            for task in prepared.tasks
            if prepared.maker(task, self.communicator.ranks[rank]) != self.communicator.ranks[rank]
            for inner in task.leaving
        ]
        return Trace(
            graph,
            prepared.steps.sizes,
            self.communicator.ranks[rank],
            {value: arrays[value] for value in (*graph.arguments, *borrowed)},
            # An argument that is a result is copied before the run.
            {value: arrays[value] for value in graph.outputs if value not in graph.arguments},
            [
                [ThreadTrace(calls, steps) for calls, steps in zip(segment.calls, segment.steps, strict=True)]
                for segment in segments
            ],
            exchanges.trace(rank),
            list(held.constants.values()),
            prepared.seen_by(seen),
            prepared.rules(),
        )

    def _allocate(self, arena: Array) -> dict[Value | TaskBuffer, Array]:
        """A buffer for each of the graph's values: in the arena, but for arguments, results and what is shared."""
        prepared = self.prepared
        arrays: dict[Value | TaskBuffer, Array] = {}
        outside = {*self.optimised.arguments, *self.optimised.outputs}
        for value, shape in prepared.steps.shapes.items():
            if value in prepared.overwriting or value in prepared.arena.in_results:
                continue
            offset = prepared.arena.offsets.get(value)
            if value in prepared.halves:
                shape = (prepared.halves[value].size,)
            if value in outside and value.dtype != "text":
                arrays[value] = self._stand_in(shape, value.dtype)
            elif offset is None or value.dtype == "text":
                arrays[value] = self.engine.empty(shape, object if value.dtype == "text" else value.dtype)
            else:
                arrays[value] = self.engine.view(arena, shape, value.dtype, offset)
        for task, assignment in zip(prepared.tasks, prepared.assignments, strict=True):
            for buffer in assignment.task_buffers:
                shape = (*((buffer.threads,) if buffer.threads else ()), *task.shapes[buffer.value])
                arrays[buffer] = self.engine.view(arena, shape, buffer.value.dtype, prepared.arena.offsets[buffer])
        arrays.update((new, arrays[old]) for new, old in prepared.overwriting.items())
        arrays.update((value, arrays[result]) for value, result in prepared.arena.in_results.items())
        return arrays

    def _stand_in(self, shape: Sequence[int], dtype: str) -> Array:
        """What a program is written with for what a run takes and returns, before there is a run."""
        return self.engine.empty(shape, dtype)

    def _places(self, rank: int) -> dict[Node, Place]:
        """Where the rank's blocks lie, of each node that asks."""
        sizes, mesh = self.prepared.steps.sizes, self.optimised.mesh
        found = {}
        for task in self.prepared.tasks:
            for node in task.nodes:
                if "at" in node.operator.keywords:
                    factors = {name: dim.size(sizes) for name, dim in node.inference.factors.items()}
                    found[node] = Places(node, mesh, factors)[rank]
        return found

    def _follow(self, given: Mapping[Value, Any]) -> None:
        """Has programs leave out what the queries of this run do not see."""
        looked = {value.name: value for value in self._following.looked}
        if looked:
            blocks = {looked[v.name]: self._split(v, array) for v, array in given.items() if v.name in looked}
            for rank in range(len(self.programs)):
                mine = {value: of_ranks[rank] for value, of_ranks in blocks.items()}
                self._following.follow(rank, mine, partial(self._leave_out, rank))

    def _leave_out(self, rank: int, views: Views) -> None:
        """Has the program of a rank leave out what is not seen; proved if the first has been.

        What is chosen is proved once, for all that may be seen where it is.
        """
        program = self.programs[rank]
        program.follow(views)
        if self._checked and program.current is not program.segments:
            assumed = program.sparing.assumed(views)
            claim = rank, program.sparing.chosen(), frozenset(assumed.items())
            if claim not in self._proved:
                self._prove(self._trace(rank, program.written, program.unbound(), assumed))
                self._proved.add(claim)

    # -- what an engine's executable does its own way -------------------------------------------------

    def _begin(self, rank: Rank) -> Program:
        """An empty program."""
        return Program(rank, self.threads)

    @abstractmethod
    def _computing(self) -> AbstractContextManager[object]:
        """What holds while a run's segments and exchanges are carried out."""

    def _receive(self, given: Mapping[Value, Any]) -> Mapping[Value, Any]:
        """What has come in, before any of it is handed in."""
        return given

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
        self._check_given_indices(given)
        return self.local.turn.take(self._run_in_turn, arguments, given, run_segment, exchange)

    def _run_in_turn(
        self,
        arguments: tuple[Mapping[str, Any], ...],
        given: Mapping[Value, Any],
        run_segment: Callable[[int, int], None],
        exchange: Callable[[Step], Traffic],
    ) -> Run:
        self._donation.check(given)
        traffic: dict[str, Traffic] = {}
        programs, exchanges = self.programs, self._exchanges
        # After a run that failed some may be under way still.
        exchanges.settle_all()
        copies = self._copies_of_arguments(given)
        self._follow(given)
        with self._computing():
            by_name = {value.name: value for value in self.optimised.arguments}
            for value, array in self._receive(given).items():
                for program, block in zip(programs, self._split(value, array), strict=True):
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
            results = self._collect(given, copies)
        return self._ran(results, traffic, arguments)

    def _exchange_blocks(self, step: Step) -> Traffic:
        return self._exchanges.carry_out(step)

    @cached_property
    def _exchanges(self) -> Exchanges:
        # They know the programs, and not the executable: nothing that it has is to keep it alive.
        return self._exchanges_by(partial(_blocks_of, self.programs))

    def _exchanges_by(self, blocks: Callable[[Value], list[Array]]) -> Exchanges:
        steps = self.prepared.steps
        return Exchanges(steps.steps, steps.shapes, self.communicator, self.engine, blocks, self.bucket)

    def _blocks(self, value: Value) -> list[Array]:
        """Each held rank's array of a value."""
        return _blocks_of(self.programs, value)

    @cached_property
    def _donated(self) -> frozenset[Value]:
        """The arguments that are overwritten where they are."""
        names = {value.name for value in self.prepared.updates}
        return frozenset(value for value in self.graph.updates if value.name in names)

    def _is_replicated(self, value: Value) -> bool:
        """Whether two of the ranks held here have the same block of a value."""
        blocks = math.prod(self.mesh.count(axes) for axes in value.type.layout.splits)
        return len(self.communicator.ranks) > blocks

    def _copies_of_arguments(self, given: Mapping[Value, Any]) -> dict[Value, Any]:
        """Arguments that are results, too, as they are before the run: it may write over them, and a caller later."""
        by_name = {value.name: (value, array) for value, array in given.items()}
        wanted = [value for value in self.optimised.arguments if value in set(self.optimised.outputs)]
        copies = {}
        for value in wanted:
            blocks = [block.copy() for block in self._split(*by_name[value.name])]
            copies[value] = self.local.join(value, blocks)
        return copies

    def _collect(self, given: Mapping[Value, Any], copies: Mapping[Value, Any]) -> dict[str, tuple[Value, Any]]:
        by_name = {value.name: array for value, array in given.items()}
        updated = {new: old for old, new in self.prepared.updates.items()}
        results: dict[str, tuple[Value, Any]] = {}
        handed: set[Value] = set()
        for wanted, value in zip(self.graph.outputs, self.optimised.outputs, strict=True):
            if value in copies:
                made = copies[value]
            else:
                made = self._hand_out(value, by_name[updated[value].name] if value in updated else None)
            # Of two results that are one value each is an array of its own.
            results[self.fetched.titles[wanted]] = wanted, made.copy() if value in handed else made
            handed.add(value)
        return results


def _blocks_of(programs: Sequence[Program], value: Value) -> list[Array]:
    return [program.rank.arrays[value] for program in programs]
