"""What a causal mask spares: where, of [.., q, k], entries with k > q need not be computed at all.

A causal operator makes them masked, softmax makes 0 of masked, and 0 stays 0 through what is linear or vanishes with
an operand. So of a block of queries the keys up to its last are enough wherever what lies beyond them contributes
nothing. All of it is read off declared traits.

What passes between tasks that leave entries out is stored as the half that it is: `Half` says where each tile's part
lies. It is made by who makes the value, and looked up by who reads it; tasks that share a half are cut alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphir.backends.compiled.task import Task, Tile, Tiles
from graphir.errors import PlanError
from graphir.ir.analysis import contracted
from graphir.ir.graph import Node
from graphir.ir.roles import Factor
from graphir.ir.signature import Operand
from graphir.ir.value import Value

MASKED, ZERO = "masked", "zero"
#: Of a value: the dims that are q and k, and what stands where k > q.
Beyond = tuple[int, int, str]
Ranges = tuple[tuple[int, int], ...]


# -- who may leave out what ---------------------------------------------------------------------------------


def find_causal(task: Task, known: Mapping[Value, Beyond]) -> tuple[tuple[Factor, Factor] | None, dict[Value, Beyond]]:
    """The factors (q, k) of `task` if it may leave out k > q, and what is known of the values that leave it.

    `known` speaks of the graph's values, as does the result.
    """
    state: dict[Value, str] = {}
    pair: tuple[Factor, Factor] | None = None

    def note(value: Value, q: Factor, k: Factor, what: str) -> None:
        nonlocal pair
        pair = pair or (q, k)
        if pair == (q, k):
            state[value] = what

    for inner in task.entering:
        if task.outer[inner] in known:
            q, k, what = known[task.outer[inner]]
            axes = task.space.dims[inner]
            if len(axes[q]) == len(axes[k]) == 1:
                note(inner, axes[q][0], axes[k][0], what)
    for node in task.nodes:
        causal = node.operator.causal
        if causal is not None and causal(node.attributes) and not node.operator.view:
            names = task.space.factors[node]
            note(node.outputs[0], names["q"], names["k"], ZERO if node.operator.linear else MASKED)
        elif pair is not None:
            _carry(task, node, state, pair)
    left: dict[Value, Beyond] = {}
    for inner in task.leaving:
        if inner in state and pair is not None:
            axes = task.space.dims[inner]
            if (pair[0],) in axes and (pair[1],) in axes:
                left[task.outer[inner]] = axes.index((pair[0],)), axes.index((pair[1],)), state[inner]
    return (pair if pair is not None and _may_leave_out(task, pair, state) else None), left


def _carry(task: Task, node: Node, state: dict[Value, str], pair: tuple[Factor, Factor]) -> None:
    """What a node makes of entries beyond: 0 of 0 where it is linear elementwise or vanishes, 0 of masked."""
    operator = node.operator
    for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
        if value not in state:
            continue
        if operator.view:
            state[node.outputs[0]] = state[value]
            continue
        if not has_both(task, node.outputs[0], pair):
            continue
        linear = operator.elementwise and operand.name in operator.linear
        vanishes = state[value] == ZERO and (linear or operand.name in operator.vanishes)
        if vanishes or (state[value] == MASKED and operand.name in operator.ignores_masked):
            state[node.outputs[0]] = ZERO


def _may_leave_out(task: Task, pair: tuple[Factor, Factor], state: Mapping[Value, str]) -> bool:
    """Whether nothing depends on entries beyond: who reads a value that has them makes the same without them."""
    q, k = pair
    # Ranks that share the queries each begin at another one, but all have the same tiles.
    if q not in task.space.loops or k in task.space.loops or not task.shared.isdisjoint(pair):
        return False
    for value, axes in task.space.dims.items():
        if any(k in axis for axis in axes) and (k,) not in axes:
            return False
        if value in task.leaving and value not in state and has_both(task, value, pair):
            return False
    return all(_needs_none(task, node, pair, state) for node in task.nodes if not node.operator.view)


def _needs_none(task: Task, node: Node, pair: tuple[Factor, Factor], state: Mapping[Value, str]) -> bool:
    """Whether a node makes the same of its operands without their entries beyond."""
    operator, rule, names = node.operator, node.inference.rule, task.space.factors[node]
    whole = pair[1] in {names[factor] for factor in rule.whole_factors}
    for result, made in zip(rule.outputs, node.outputs, strict=True):
        needed = operator.dependencies(rule, (result.name,))
        halves = [
            (operand, value)
            for operand, value in zip(rule.inputs, node.inputs, strict=True)
            if operand.name in needed and has_both(task, value, pair)
        ]
        # An entry of what has both dims depends on that entry of the operands alone, unless k is needed whole.
        if not halves or (not whole and has_both(task, made, pair)):
            continue
        adds_up = not whole and operator.reduction == "sum"
        if not any(_adds_nothing(node, operand, state.get(value), adds_up) for operand, value in halves):
            return False
    return True


def _adds_nothing(node: Node, operand: Operand, beyond: str | None, adds_up: bool) -> bool:
    """Whether what stands beyond in an operand makes that part of all operands contribute nothing."""
    operator, name = node.operator, operand.name
    if beyond == MASKED:
        return name in operator.ignores_masked
    # A factor of products that are added up, or a term of a sum.
    linear = adds_up and (name in operator.linear or bool(contracted(node)))
    return beyond == ZERO and (linear or name in operator.vanishes)


def has_both(task: Task, value: Value, pair: tuple[Factor, Factor]) -> bool:
    """Whether a value has both q and k."""
    return set(pair) <= {factor for axis in task.space.dims[value] for factor in axis}


# -- what is stored as a half -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half:
    """How a value lies of which only the causal half is stored: part after part, each C-contiguous.

    task, value   who makes it, and as which of its values
    size          the elements of all parts, told from the widths of tiles: a plan may be of a size that nobody runs
    """

    task: Task
    value: Value
    size: int

    @classmethod
    def made_by(cls, task: Task, value: Value) -> Half:
        """The half as the tiles of the task that makes it leave it."""
        return cls(task, value, sum(_elements(task, value, tiles) for tiles in task.tiles if tiles))

    @cached_property
    def starts(self) -> Mapping[Ranges, int]:
        """The first element of each part, by its ranges in the value's dims."""
        starts: dict[Ranges, int] = {}
        size = 0
        for tile in (tile for tiles in self.task.tiles for tile in tiles):
            starts[self.task.ranges(self.value, tile)] = size
            size += math.prod(self.task.shape(self.value, tile))
        return starts

    def start(self, task: Task, value: Value, tile: Tile) -> int:
        """Where a tile's part begins. Errors: PlanError if it is none of the parts that there are."""
        ranges = task.ranges(value, tile)
        if ranges not in self.starts:
            raise PlanError(
                f"{task.node.name} reads {value.name} at {_spelled(ranges)}, which is stored in other parts: "
                f"{', '.join(map(_spelled, list(self.starts)[:4]))}, …"
            )
        return self.starts[ranges]


def _elements(task: Task, value: Value, tiles: Tiles) -> int:
    """The elements of a half in a thread's tiles, all together: the loops' pieces are not combined one by one."""
    assert tiles.pieces is not None
    assert tiles.causal is not None
    q, k = tiles.causal
    factors = {factor for axis in task.space.dims[value] for factor in axis}
    count, loops = 1, {pieces.loop: pieces for pieces in tiles.pieces}
    for factor in factors - loops.keys() - {k}:
        count *= task.sizes[factor]
    for loop in loops.keys() - {q}:
        count *= loops[loop].stop - loops[loop].start if loop in factors else len(loops[loop])
    return count * sum((stop - start) * min(tiles.keys, stop) for start, stop in loops[q])


def _spelled(ranges: Ranges) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in ranges) + "]"


@dataclass
class Group:
    """Tasks that pass halves to each other and so are cut alike; `values` are the halves, of the graph."""

    tasks: list[Task]
    values: set[Value]


def find_groups(tasks: Sequence[Task], outside: Collection[Value]) -> list[Group]:
    """The groups of those of `tasks` that leave out a causal half; a task without halves is a group of itself.

    A half that is needed whole, or by who cannot follow its tiles, has to be made whole; the tasks of its group then
    leave out nothing (`Task.causal` is None).
    """
    touching: dict[Value, list[tuple[Task, Value]]] = {}
    for task in tasks:
        for inner, outer in task.outer.items():
            touching.setdefault(outer, []).append((task, inner))
    groups = {task: Group([task], set()) for task in tasks if task.causal is not None}
    whole: set[Value] = set()
    for value, users in touching.items():
        if any(_makes_half(task, inner) for task, inner in users):
            members = list({id(g): g for task, _ in users if (g := groups.get(task)) is not None}.values())
            joined = Group([t for g in members for t in g.tasks], {value}.union(*(g.values for g in members)))
            groups.update(dict.fromkeys(joined.tasks, joined))
            if value in outside or not _can_follow(users):
                whole.add(value)
    found = []
    for group in {id(g): g for g in groups.values()}.values():
        if whole.isdisjoint(group.values):
            found.append(group)
        else:
            for task in group.tasks:
                task.causal = None
    return found


def _makes_half(task: Task, inner: Value) -> bool:
    return task.causal is not None and inner in task.leaving and has_both(task, inner, task.causal)


def _can_follow(users: Sequence[tuple[Task, Value]]) -> bool:
    """Whether all who touch a value can go through it by the same tiles: its dims are their loops, then k, and between
    them such that are whole to all."""
    cuts = set()
    for task, inner in users:
        if task.causal is None:
            return False
        *leading, last = task.space.dims[inner]
        loops = task.space.loops
        if [axis for axis in leading if axis[0] in loops] != [(loop,) for loop in loops] or last != (task.causal[1],):
            return False
        cuts.add(tuple(task.sizes[axis[0]] if axis[0] in loops else None for axis in leading))
    return len(cuts) == 1
