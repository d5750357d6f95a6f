"""What a mask spares: where, of [.., q, k], entries with k > q, or that nobody sees, need not be computed at all.

A causal operator makes them masked, softmax makes 0 of masked, and 0 stays 0 through what is linear or vanishes with
an operand. So of a block of queries the keys up to its last are enough wherever what lies beyond them contributes
nothing. All of it is read off declared traits. The same holds of keys that, as arguments say, no query of a block sees:
which those are is known before each run (`sights`).

What passes between tasks that leave entries out is stored as the half that it is: `Half` says where each tile's part
lies. It is made by who makes the value, and looked up by who reads it; tasks that share a half are cut alike. What is
left out by sight has its place, as another run may need it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from graphir.backends.compiled.bounds import rule_of
from graphir.backends.compiled.sights import Sight
from graphir.backends.compiled.task import Causal, Task, Tile, Tiles
from graphir.errors import PlanError
from graphir.ir.analysis import contracted
from graphir.ir.graph import Node
from graphir.ir.signature import Operand
from graphir.ir.traits import Sees
from graphir.ir.value import Value

MASKED, ZERO = "masked", "zero"


class Beyond(NamedTuple):
    """Of a value: the dims that are q and k, what stands where k > q, or where the sight, with the dim that is b, says
    that nobody looks."""

    q: int
    k: int
    what: str
    b: int | None = None
    sight: Sight | None = None


Ranges = tuple[tuple[int, int], ...]


# -- who may leave out what ---------------------------------------------------------------------------------


def find_causal(
    task: Task, known: Mapping[Value, Beyond], arguments: Collection[Value] = ()
) -> tuple[Causal | None, dict[Value, Beyond]]:
    """The factors of `task` if it may leave out keys, and what is known of the values that leave it.

    `known` speaks of the graph's values, as does the result. What is seen is asked of `arguments` alone.
    """
    state: dict[Value, str] = {}
    found: Causal | None = None

    def note(value: Value, causal: Causal, what: str) -> None:
        nonlocal found
        found = found or causal
        if found == causal:
            state[value] = what

    for inner in task.entering:
        if task.outer[inner] in known:
            q, k, what, b, sight = known[task.outer[inner]]
            axes = task.space.dims[inner]
            if all(len(axes[dim]) == 1 for dim in (q, k, b) if dim is not None):
                note(inner, Causal(axes[q][0], axes[k][0], None if b is None else axes[b][0], sight), what)
    for node in task.nodes:
        causal = _begun(task, node, arguments)
        if causal is not None:
            note(node.outputs[0], causal, ZERO if node.operator.linear else MASKED)
        elif found is not None:
            _carry(task, node, state, found)
    left: dict[Value, Beyond] = {}
    for inner in task.leaving:
        if inner in state and found is not None:
            axes = task.space.dims[inner]
            dims = {axis[0]: dim for dim, axis in enumerate(axes) if len(axis) == 1}
            if {found.q, found.k} <= dims.keys() and (found.b is None or found.b in dims):
                b = None if found.b is None else dims[found.b]
                left[task.outer[inner]] = Beyond(dims[found.q], dims[found.k], state[inner], b, found.sight)
    return (found if found is not None and _may_leave_out(task, found, state) else None), left


def _begun(task: Task, node: Node, arguments: Collection[Value]) -> Causal | None:
    """The factors of a node that masks by itself: k > q, or what arguments say."""
    operator, names = node.operator, task.space.factors[node]
    if operator.causal is not None and operator.causal(node.attributes) and not operator.view:
        return Causal(names["q"], names["k"])
    sight = sight_of(task, node, arguments)
    return None if sight is None else Causal(names["q"], names["k"], names["b"], sight)


def sight_of(task: Task, node: Node, arguments: Collection[Value]) -> Sight | None:
    """How `arguments` say what is seen of a node's result; None where they do not."""
    looks = node.operator.trait(Sees)
    if looks is None:
        return None
    operands = []
    for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
        if not value.type.is_float:
            outer = task.outer.get(value)
            if outer is None or outer not in arguments:
                return None
            operands.append((operand.name, operand.factors, outer))
    return Sight(looks.rule, node.attributes, tuple(operands), rule_of(node))


def _carry(task: Task, node: Node, state: dict[Value, str], pair: Causal) -> None:
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


def _may_leave_out(task: Task, pair: Causal, state: Mapping[Value, str]) -> bool:
    """Whether nothing depends on entries beyond: who reads a value that has them makes the same without them."""
    q, k = pair.q, pair.k
    # Ranks that share the queries each begin at another one, but all have the same tiles; what they see, each knows.
    shared = task.shared & ({q, k} if pair.sight is None else {k})
    if q not in task.space.loops or k in task.space.loops or shared:
        return False
    for value, axes in task.space.dims.items():
        if any(k in axis for axis in axes) and (k,) not in axes:
            return False
        if value in task.leaving and value not in state and has_both(task, value, pair):
            return False
    return all(_needs_none(task, node, pair, state) for node in task.nodes if not node.operator.view)


def _needs_none(task: Task, node: Node, pair: Causal, state: Mapping[Value, str]) -> bool:
    """Whether a node makes the same of its operands without their entries beyond."""
    operator, rule, names = node.operator, node.inference.rule, task.space.factors[node]
    whole = pair.k in {names[factor] for factor in rule.whole_factors}
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


def has_both(task: Task, value: Value, pair: Causal) -> bool:
    """Whether a value has both q and k."""
    return {pair.q, pair.k} <= {factor for axis in task.space.dims[value] for factor in axis}


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
    q, k, *_ = tiles.causal
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
        if [axis for axis in leading if axis[0] in loops] != [(loop,) for loop in loops] or last != (task.causal.k,):
            return False
        cuts.add(tuple(task.sizes[axis[0]] if axis[0] in loops else None for axis in leading))
    return len(cuts) == 1 and len({task.causal.sight for task, _ in users if task.causal is not None}) == 1
