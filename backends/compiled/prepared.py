"""Everything that is decided before anything is allocated: tasks, their tiles, and where every value will lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property

from graphir.backends.compiled.arena import Arena, plan_arena
from graphir.backends.compiled.assignment import Assignment, Reuse, assign
from graphir.backends.compiled.bounds import rule_of
from graphir.backends.compiled.causal import Beyond, Half, find_causal, find_groups, sight_of
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.kernels import Kernels
from graphir.backends.compiled.memory import MemoryPlan, plan_memory
from graphir.backends.compiled.sights import Sight
from graphir.backends.compiled.task import Numbers, Task, make_task
from graphir.backends.compiled.tiles import Cut, Tiling
from graphir.backends.inequalities import Rule
from graphir.backends.plan import plan_complete
from graphir.backends.trace import Seen
from graphir.ir.analysis import contracted
from graphir.ir.graph import Graph, Node
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


class Prepared:
    """An optimised graph, prepared for an engine, with its fused kernels if it has any, and a number of threads.

    tasks         what is carried out, in order, with tiles for each thread
    halves        values of which only the causal half is stored, and where its parts lie
    assignments   of each task, whose memory its values have
    arena         where the values between tasks lie
    shared        with `share_replicas`, for each value that replicas hold in common the mesh axes along which they do
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
        tiling: Tiling | None = None,
    ) -> None:
        self.graph, self.engine = graph, engine
        self.steps = plan_complete(graph, sizes)
        numbers = Numbers(graph.mesh, sizes)
        self.tasks = [make_task(step.node, numbers) for step in self.steps.steps]
        self._outside = frozenset((*graph.arguments, *graph.outputs))
        #: With `donate`, the arguments over which their new content is written: what is returned, for others to go on.
        self.updates = {old: new for old, new in graph.updates.items() if new in graph.outputs} if donate else {}
        self.halves: dict[Value, Half] = {}
        self._cut(threads, tiling or engine.tiling, kernels)
        self.shared = self._find_shared() if share_replicas else {}
        self.assignments = self._assign()
        self.arena: Arena = plan_arena(
            self.tasks,
            self.assignments,
            {*self._outside, *self.shared},
            {value: half.size * DTYPES[value.dtype] for value, half in self.halves.items()},
            engine.alignment,
        )

    # -- tiles, and the causal half -------------------------------------------------------------------

    def _cut(self, threads: int, tiling: Tiling, kernels: Kernels | None) -> None:
        """Gives every task its tiles; tasks that pass halves to each other are cut alike."""
        known: dict[Value, Beyond] = {}
        arguments = frozenset(self.graph.arguments) if self.engine.follows_sights else frozenset[Value]()
        for task in self.tasks:
            task.causal, left = find_causal(task, known, arguments)
            known.update(left)
        groups = find_groups(self.tasks, self._outside)
        if kernels is not None:
            for task in self.tasks:
                task.in_registers = kernels.in_registers(task)
        together = {task: group for group in groups for task in group.tasks}
        for task in self.tasks:
            if task.tiles:
                continue
            tasks = together[task].tasks if task in together else [task]
            first = max(tasks, key=_work)
            cut = Cut() if any(each.in_registers for each in tasks) else tiling.cut(first, threads)
            for each in tasks:
                mine = cut.follow(first.space.loops, each.space.loops)
                each.tiles, each.split = mine.tiles(each, threads), mine.shared
        for group in groups:
            for task in group.tasks:
                if task.causal is None or task.causal.sight is not None:
                    continue
                made = {task.outer[inner]: inner for inner in task.leaving}
                self.halves.update((v, Half.made_by(task, made[v])) for v in group.values if v in made)

    @cached_property
    def sights(self) -> Mapping[Sight, int]:
        """By which arguments say what their queries see, where tasks leave out the rest; and how many products of two
        numbers these add up of all keys."""
        found: dict[Sight, int] = {}
        for task in self.tasks:
            if task.causal is not None and task.causal.sight is not None:
                sight = task.causal.sight
                found[sight] = found.get(sight, 0) + sum(_products(task, node) for node in task.nodes)
        return found

    @property
    def sighted(self) -> int:
        """How many tiles leave out what arguments say that nobody sees."""
        sighted = [task for task in self.tasks if task.causal is not None and task.causal.sight is not None]
        return sum(math.prod(map(len, tiles.pieces or ())) for task in sighted for tiles in task.tiles if tiles)

    def seen_by(self, views: Mapping[Sight, Seen]) -> dict[Node, Seen]:
        """What each node shows that masks by sight, of the graph or of a fused node's body."""
        arguments, found = frozenset(self.graph.arguments), {}
        for task in self.tasks:
            for node in task.nodes:
                sight = sight_of(task, node, arguments)
                if sight is not None and sight in views:
                    found[task.space.origins[node]] = views[sight]
        return found

    def rules(self) -> dict[Node, Rule]:
        """By which it is told what is seen, of each node that masks so, of the graph or of a fused node's body."""
        found = {task.space.origins[node]: rule_of(node) for task in self.tasks for node in task.nodes}
        return {node: rule for node, rule in found.items() if rule is not None}

    # -- memory ---------------------------------------------------------------------------------------

    def _assign(self) -> list[Assignment]:
        updates = self.updates
        last = {outer: i for i, task in enumerate(self.tasks) for outer in task.outer.values()}
        made = {task.outer[value]: i for i, task in enumerate(self.tasks) for value in task.leaving}
        kept = {*self._outside, *self.halves, *self.shared}
        taken = {*updates.values(), *self.shared}
        found = []
        for i, task in enumerate(self.tasks):
            dying = {value: made[value] for value in task.outer.values() if value not in kept and last[value] == i}
            donated = {old: new for old, new in updates.items() if last.get(old) == i}
            reuse = Reuse(dying, taken, donated, self.halves.keys())
            found.append(assign(task, self.steps.sizes, reuse, self.engine.rules))
        return found

    @cached_property
    def overwriting(self) -> dict[Value, Value]:
        """Results that are written over an argument, with that argument."""
        arguments = frozenset(self.graph.arguments)
        return {new: old for each in self.assignments for new, old in each.reuses if old in arguments}

    @cached_property
    def memory(self) -> MemoryPlan:
        """What one rank needs."""

        def total(values: Iterable[Value]) -> int:
            shapes = self.steps.shapes
            return sum(math.prod(shapes[value]) * DTYPES[value.dtype] for value in values)

        # What overwrites an argument needs no buffer of its own.
        donated = set(self.updates.values())
        results = [value for value in self.graph.outputs if value not in donated]
        arguments = total(self.graph.arguments)
        return plan_memory(self.tasks, self.assignments, self.arena, arguments, total(results), total(self.shared))

    # -- replicas -------------------------------------------------------------------------------------

    def _find_shared(self) -> dict[Value, frozenset[str]]:
        """What one rank can make for others: of a task all of whose values are replicated along an axis."""
        shared: dict[Value, frozenset[str]] = {}
        for task in self.tasks:
            values = task.outer.values()
            mine = {axis for value in values for axis in (*_split_axes(value), *value.type.layout.pending_axes)}
            free = frozenset(self.graph.mesh.names) - mine
            made = [task.outer[value] for value in task.leaving]
            if free and task.node.operator.relayout is None and {*self._outside, *self.halves}.isdisjoint(made):
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


def _products(task: Task, node: Node) -> int:
    """How many products of two numbers a node adds up."""
    return math.prod(task.sizes[each] for each in task.space.factors[node].values()) if contracted(node) else 0


def _split_axes(value: Value) -> Iterable[str]:
    return (axis for axes in value.type.layout.splits for axis in axes)


def _work(task: Task) -> int:
    """By how much a task's tiles matter: the bytes that it reads and writes."""
    return sum(task.bytes(value, {}) for value in task.shapes)
