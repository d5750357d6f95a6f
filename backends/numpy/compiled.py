"""The compiled executable: an optimised graph as a program for each simulated rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

import graphir.backends.numpy.rules  # declares them
from graphir.backends.blas import single_threaded_blas
from graphir.backends.communicator import Communicator, Traffic
from graphir.backends.executable import Executable, Run, Watch
from graphir.backends.numpy.causal import Beyond, find_causal
from graphir.backends.numpy.emission import Array
from graphir.backends.numpy.memory import MemoryPlan, plan_memory
from graphir.backends.numpy.program import Program
from graphir.backends.numpy.results import ResultBuffers
from graphir.backends.numpy.storage import Arena, Homes, find_homes, plan_arena
from graphir.backends.numpy.task import Task, make_task
from graphir.backends.numpy.threads import Team, default_threads
from graphir.backends.numpy.tiles import choose_tiles
from graphir.backends.numpy.writer import Rank, Scratch, aligned
from graphir.backends.plan import ExecutionPlan, Step, places, plan_complete
from graphir.errors import InputError
from graphir.ir.graph import Graph
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


class CompiledExecutable(Executable):
    """As `Executable`, compiled: `optimised` is what runs, the plan's graph what it was made from and is checked by.

    Results belong to the caller: a buffer that is still held when the next run begins is replaced by a new one.
    With `donate`, parameters and state that the graph updates are overwritten where they are.
    """

    def __init__(
        self,
        reference: ExecutionPlan,
        optimised: Graph,
        *,
        threads: int | None = None,
        donate: bool = False,
        algorithm: str = "ring",
        source: Graph | None = None,
        communicator: Communicator | None = None,
    ) -> None:
        super().__init__(reference, algorithm, source, communicator)
        self.optimised, self.donate = optimised, donate
        self.threads = threads or default_threads()
        self.compiled = plan_complete(optimised, reference.sizes)
        sizes = self.compiled.sizes
        self.tasks: list[Task] = [make_task(step.node, optimised, sizes) for step in self.compiled.steps]
        self.packed = self._find_causal()
        for task in self.tasks:
            choose_tiles(task, self.threads)
        self.homes = self._find_homes()
        self.arena: Arena = plan_arena(self.tasks, self.homes, optimised, self._packed_sizes())

    # -- planning -------------------------------------------------------------------------------------

    def _find_causal(self) -> frozenset[Value]:
        """Marks the tasks that leave out a causal half; the values of which only the other half is stored."""
        known: dict[Value, Beyond] = {}
        for task in self.tasks:
            task.causal, left = find_causal(task, known)
            known.update(left)
        touching: dict[Value, list[tuple[Task, Value]]] = {}
        for task in self.tasks:
            for inner, outer in task.outer.items():
                touching.setdefault(outer, []).append((task, inner))
        outside = {*self.optimised.arguments, *self.optimised.outputs}
        packed: set[Value] = set()
        for value, users in touching.items():
            if not any(task.causal and _has_both(task, inner) for task, inner in users):
                continue
            loops = {tuple(task.sizes[loop] for loop in task.space.loops) for task, _ in users}
            alike = len(loops) == 1 and all(task.causal and _in_loop_order(task, inner) for task, inner in users)
            if alike and value not in outside:
                packed.add(value)
            else:
                # It is stored whole, so it has to be made whole.
                for task, _ in users:
                    task.causal = None
                return self._find_causal_without()
        return frozenset(packed)

    def _find_causal_without(self) -> frozenset[Value]:
        for task in self.tasks:
            task.causal = None
        return frozenset()

    def _packed_sizes(self) -> dict[Value, int]:
        sizes: dict[Value, int] = {}
        for task in self.tasks:
            for inner, outer in task.outer.items():
                if outer in self.packed:
                    sizes[outer] = sum(task.bytes(inner, tile) for tiles in task.tiles for tile in tiles)
        return sizes

    def _find_homes(self) -> list[Homes]:
        outside = {*self.optimised.arguments, *self.optimised.outputs}
        updates = self.optimised.updates if self.donate else {}
        last = {outer: i for i, task in enumerate(self.tasks) for outer in task.outer.values()}
        homes = []
        for i, task in enumerate(self.tasks):
            dying = {v for v in task.outer.values() if v not in outside and v not in self.packed and last[v] == i}
            given_away = {old: new for old, new in updates.items() if last.get(old) == i}
            homes.append(find_homes(task, dying, outside, given_away))
        return homes

    @cached_property
    def _overwriting(self) -> dict[Value, Value]:
        """Results that are written over an argument, with that argument."""
        arguments = frozenset(self.optimised.arguments)
        return {new: old for homes in self.homes for new, old in homes.takeovers if old in arguments}

    @cached_property
    def memory(self) -> MemoryPlan:
        """What one rank needs, as planned."""

        def total(values: Iterable[Value]) -> int:
            return sum(math.prod(self.compiled.shapes[v]) * DTYPES[v.dtype] for v in values if v.dtype in DTYPES)

        graph = self.optimised
        # What overwrites an argument needs no buffer of its own.
        donated = set(graph.updates.values()) if self.donate else set()
        results = [value for value in graph.outputs if value not in donated]
        return plan_memory(self.tasks, self.arena, total(graph.arguments), total(results))

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
        return [self._write(rank) for rank in self.communicator.ranks]

    def _write(self, rank: int) -> Program:
        graph, shapes = self.optimised, self.compiled.shapes
        memory = aligned(self.arena.size)
        arrays: dict[Value, Array] = {}
        for value, shape in shapes.items():
            offset = self.arena.offsets.get(value)
            if value.dtype == "text":
                arrays[value] = np.empty(shape, object)
            elif value in self.packed:
                assert offset is not None
                count = self._packed_sizes()[value] // DTYPES[value.dtype]
                arrays[value] = np.ndarray((count,), value.dtype, memory.data, offset)
            elif offset is not None:
                arrays[value] = np.ndarray(shape, value.dtype, memory.data, offset)
            else:
                arrays[value] = np.empty(shape, value.dtype)
        arrays.update((new, arrays[old]) for new, old in self._overwriting.items())
        at = {}
        for task in self.tasks:
            for node in task.nodes:
                if "at" in node.operator.keywords:
                    factors = {name: dim.size(self.compiled.sizes) for name, dim in node.inference.factors.items()}
                    at[node] = places(node, graph.mesh, factors)[rank]
        program = Program(Rank(arrays, self.packed, at, self.compiled.sizes), self._team)
        for task, homes in zip(self.tasks, self.homes, strict=True):
            if task.node.operator.relayout is not None:
                program.begin_segment()
                continue
            private: dict[Value, Array] = {}
            for inner in task.leaving:
                if inner in task.private:
                    outer = task.outer[inner]
                    private[outer] = np.empty((self.threads, *shapes[outer]), outer.dtype)
            program.add_task(task, homes, self._scratch, private)
        results = [value for value in graph.outputs if value not in self._overwriting]
        program.find_relocations({value: arrays[value] for value in (*graph.arguments, *results)})
        return program

    # -- running --------------------------------------------------------------------------------------

    def __call__(self, *arguments: Mapping[str, Any], watch: Watch | None = None) -> Run:
        """As `Executable.__call__`; with `watch`, the reference kernels run, node by node."""
        if watch is not None:
            return super().__call__(*arguments, watch=watch)
        given = self._check(arguments)
        self._check_all_indices(given)
        self._bind_arguments(given)
        for buffers in self._results:
            buffers.renew()
        traffic = self._carry_out()
        return Run(self, self._collect(given), traffic)

    def _carry_out(self) -> dict[str, Traffic]:
        traffic: dict[str, Traffic] = {}
        exchanges = [step for step in self.compiled.steps if step.node.operator.relayout is not None]
        with single_threaded_blas():
            for index in range(len(exchanges) + 1):
                for program in self.programs:
                    self._team.run(program.segments[index].calls)
                if index < len(exchanges):
                    traffic[exchanges[index].node.name] = self._exchange_blocks(exchanges[index])
        return traffic

    def _exchange_blocks(self, step: Step) -> Traffic:
        source, target = step.node.inputs[0], step.node.outputs[0]
        blocks, traffic = self.exchange(step, [program.rank.arrays[source] for program in self.programs])
        for program, block in zip(self.programs, blocks, strict=True):
            np.copyto(program.rank.arrays[target], block)
        return traffic

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

    def _protected(self, value: Value, array: Any) -> Any:
        if not self.donate or value not in self.graph.updates:
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
        arrays = program.rank.arrays
        held = arrays[value]
        # Small ones, and parts of a whole, are copied; the others are read where they are.
        if block.nbytes <= _SMALL or not block.flags.c_contiguous or not block.flags.aligned or value.dtype == "text":
            if id(value) not in self._own(program):
                arrays[value] = np.empty(block.shape, block.dtype)
                program.bind(value, arrays[value])
                self._own(program).add(id(value))
            arrays[value][...] = block
        elif block.ctypes.data != held.ctypes.data or held.base is not block.base:
            arrays[value] = block
            program.bind(value, block)
            self._own(program).discard(id(value))
        else:
            return
        for new, old in self._overwriting.items():
            if old is value:
                arrays[new] = arrays[old]

    def _own(self, program: Program) -> set[int]:
        """The values whose buffer is the program's, not the caller's."""
        return self._owned.setdefault(id(program), set())

    @cached_property
    def _owned(self) -> dict[int, set[int]]:
        return {}

    @cached_property
    def _results(self) -> list[ResultBuffers]:
        """The buffers of every rank's results, but for those that overwrite an argument."""

        def bind(program: Program, value: Value) -> Callable[[Array], None]:
            def to(array: Array) -> None:
                program.rank.arrays[value] = array
                program.bind(value, array)

            return to

        arguments, shapes = frozenset(self.optimised.arguments), self.compiled.shapes
        own = [v for v in self.optimised.outputs if v not in arguments and v not in self._overwriting]
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


def _has_both(task: Task, value: Value) -> bool:
    assert task.causal is not None
    flat = {factor for axis in task.space.dims[value] for factor in axis}
    return set(task.causal) <= flat


def _in_loop_order(task: Task, value: Value) -> bool:
    """Whether the value's dims are the loops and then k: tile after tile is then how all read it."""
    assert task.causal is not None
    return list(task.space.dims[value]) == [(loop,) for loop in task.space.loops] + [(task.causal[1],)]


__all__ = ["CompiledExecutable"]
