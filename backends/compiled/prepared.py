"""Everything that is decided before anything is allocated: tasks, their tiles, and where every value will lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property

from graphir.backends.compiled.causal import Beyond, find_causal
from graphir.backends.compiled.emission import Kernels
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.memory import MemoryPlan, plan_memory
from graphir.backends.compiled.storage import Arena, Homes, find_homes, plan_arena
from graphir.backends.compiled.task import Numbers, Task, make_task
from graphir.backends.compiled.tiles import choose_tiles
from graphir.backends.plan import plan_complete
from graphir.ir.graph import Graph
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


class Prepared:
    """An optimised graph, prepared for an engine, with its fused kernels if it has any, and a number of threads.

    tasks     what is carried out, in order, with tiles for each thread
    packed    values of which only the causal half is stored, tile after tile, with their bytes
    homes     of each task, whose memory its values have
    arena     where the values between tasks lie
    shared    with `share_replicas`, for each value that replicas hold in common the mesh axes along which they do
    """

    def __init__(
        self,
        graph: Graph,
        sizes: Mapping[str, int],
        engine: Engine,
        threads: int = 1,
        donate: bool = False,
        share_replicas: bool = False,
        kernels: Kernels | None = None,
    ) -> None:
        self.graph, self.engine, self.donate = graph, engine, donate
        self.steps = plan_complete(graph, sizes)
        numbers = Numbers(graph.mesh, sizes)
        self.tasks = [make_task(step.node, numbers) for step in self.steps.steps]
        self._outside = frozenset((*graph.arguments, *graph.outputs))
        packed = self._find_causal()
        for task in self.tasks:
            if kernels is not None:
                task.held = kernels.held(task)
            choose_tiles(task, threads, engine.tiling)
        self.packed = self._packed_sizes(packed)
        self.shared = self._find_shared() if share_replicas else {}
        self.homes = self._find_homes()
        self.arena: Arena = plan_arena(
            self.tasks, self.homes, {*self._outside, *self.shared}, self.packed, engine.alignment
        )

    # -- the causal half ------------------------------------------------------------------------------

    def _find_causal(self) -> frozenset[Value]:
        """Marks the tasks that leave out a causal half; the values of which only the other half is stored."""
        known: dict[Value, Beyond] = {}
        touching: dict[Value, list[tuple[Task, Value]]] = {}
        for task in self.tasks:
            task.causal, left = find_causal(task, known)
            known.update(left)
            for inner, outer in task.outer.items():
                touching.setdefault(outer, []).append((task, inner))
        halves = {
            value: users
            for value, users in touching.items()
            if any(task.causal and _has_both(task, inner) for task, inner in users)
        }
        if all(value not in self._outside and _stored_alike(users) for value, users in halves.items()):
            return frozenset(halves)
        # One of them is needed whole, so it has to be made whole; the others are few, and go with it.
        for task in self.tasks:
            task.causal = None
        return frozenset()

    def _packed_sizes(self, packed: frozenset[Value]) -> dict[Value, int]:
        """The bytes of each packed value: the sum of its tiles, which are the same for all who touch it."""
        sizes: dict[Value, int] = {}
        for task in self.tasks:
            for inner, outer in task.outer.items():
                if outer in packed and outer not in sizes:
                    sizes[outer] = sum(task.bytes(inner, tile) for tiles in task.tiles for tile in tiles)
        return sizes

    # -- memory ---------------------------------------------------------------------------------------

    def _find_homes(self) -> list[Homes]:
        updates = self.graph.updates if self.donate else {}
        last = {outer: i for i, task in enumerate(self.tasks) for outer in task.outer.values()}
        made = {task.outer[value]: i for i, task in enumerate(self.tasks) for value in task.leaving}
        kept = {*self._outside, *self.packed, *self.shared}
        taken = {*updates.values(), *self.shared}
        homes = []
        for i, task in enumerate(self.tasks):
            dying = {value: made[value] for value in task.outer.values() if value not in kept and last[value] == i}
            given_away = {old: new for old, new in updates.items() if last.get(old) == i}
            homes.append(find_homes(task, dying, taken, given_away, self.engine.rules))
        return homes

    @cached_property
    def overwriting(self) -> dict[Value, Value]:
        """Results that are written over an argument, with that argument."""
        arguments = frozenset(self.graph.arguments)
        return {new: old for homes in self.homes for new, old in homes.takeovers if old in arguments}

    @cached_property
    def memory(self) -> MemoryPlan:
        """What one rank needs."""

        def total(values: Iterable[Value]) -> int:
            shapes = self.steps.shapes
            return sum(math.prod(shapes[value]) * DTYPES[value.dtype] for value in values)

        # What overwrites an argument needs no buffer of its own.
        donated = set(self.graph.updates.values()) if self.donate else set()
        results = [value for value in self.graph.outputs if value not in donated]
        arguments = total(self.graph.arguments)
        return plan_memory(self.tasks, self.homes, self.arena, arguments, total(results), total(self.shared))

    # -- replicas -------------------------------------------------------------------------------------

    def _find_shared(self) -> dict[Value, frozenset[str]]:
        """What one rank can make for others: of a task all of whose values are replicated along an axis."""
        shared: dict[Value, frozenset[str]] = {}
        for task in self.tasks:
            values = task.outer.values()
            mine = {axis for value in values for axis in (*_split_axes(value), *value.type.layout.pending_axes)}
            free = frozenset(self.graph.mesh.names) - mine
            made = [task.outer[value] for value in task.leaving]
            if free and task.node.operator.relayout is None and self._outside.isdisjoint(made):
                shared.update(dict.fromkeys(made, free))
        return shared

    def maker(self, task: Task, rank: int) -> int:
        """The rank that carries out `task` for `rank`: itself, or the first of those with which it shares."""
        axes = self.shared.get(task.outer[task.leaving[0]]) if task.leaving else None
        if not axes:
            return rank
        ranks = self.graph.mesh.ranks
        mine = {**ranks[rank], **dict.fromkeys(axes, 0)}
        return next(i for i, coordinates in enumerate(ranks) if coordinates == mine)


def _split_axes(value: Value) -> Iterable[str]:
    return (axis for axes in value.type.layout.splits for axis in axes)


def _has_both(task: Task, value: Value) -> bool:
    assert task.causal is not None
    return set(task.causal) <= {factor for axis in task.space.dims[value] for factor in axis}


def _stored_alike(users: list[tuple[Task, Value]]) -> bool:
    """Whether all who touch a value go through it by the same tiles: its dims are their loops, and then k."""
    loops = {tuple(task.sizes[loop] for loop in task.space.loops) for task, _ in users}
    return len(loops) == 1 and all(
        task.causal is not None
        and list(task.space.dims[inner]) == [(loop,) for loop in task.space.loops] + [(task.causal[1],)]
        for task, inner in users
    )
