"""Where values lie: which take over an operand's memory, and where in one arena the others are put.

Arguments lie where the caller has them, results in buffers of their own, and so does what a result is made of in
place: the last term of a gradient is added to the others where the caller will find the sum. Everything else shares one
arena: a value occupies its part from the task that makes it to the last that reads it. Within a task, values that no
other task sees live in a thread's scratch memory, as long as their tile is worked on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from graphir.backends.compiled.emission import Rules
from graphir.backends.compiled.engine import rounded
from graphir.backends.compiled.task import Task
from graphir.ir.graph import Node
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


@dataclass
class Homes:
    """Of a task's own values, whose memory each has.

    rep       for each value that has memory, the first that had the same memory
    outer     for each such first, the value of the graph whose buffer it is; what is not here is scratch
    inverse   a value that is stored as the view `path` makes of it: the views from it to a value that leaves
    last      for each value, the position of the last node that reads it, directly or as a view
    """

    rep: dict[Value, Value] = field(default_factory=dict)
    outer: dict[Value, Value] = field(default_factory=dict)
    inverse: dict[Value, tuple[Node, ...]] = field(default_factory=dict)
    last: dict[Value, int] = field(default_factory=dict)
    #: (new, old): values of the graph, where the new one takes over the old one's memory.
    takeovers: list[tuple[Value, Value]] = field(default_factory=list)


def find_homes(
    task: Task, dying: Mapping[Value, int], fixed: Set[Value], given_away: Mapping[Value, Value], rules: Rules
) -> Homes:
    """The homes of a task's values; `dying` are those of the graph's that nothing reads later, with who made each.

    `fixed` are results that cannot take over what passes between tasks: those that overwrite an argument, and what one
    rank makes for others. `given_away` are arguments that nothing reads later, with the result that overwrites each.
    """
    homes = Homes()
    root = _roots(task)
    for position, node in enumerate(task.nodes):
        for value in node.inputs:
            homes.last[value] = homes.last[root[value]] = position
    producers = {value: node for node in task.nodes for value in node.outputs}
    entering = set(task.entering)
    for value in task.leaving:
        path = []
        here = value
        while here in producers and producers[here].operator.inverse is not None:
            path.append(producers[here])
            here = producers[here].inputs[0]
        if path and here not in entering and here not in task.leaving and here not in homes.inverse:
            homes.inverse[here] = tuple(path)
    for value in entering:
        homes.rep[value] = value
        homes.outer[value] = task.outer[value]
    leaving = set(task.leaving)
    loops = set(task.space.loops)

    def age(operand: Value, target: Value | None) -> float:
        # The oldest is the best to take over: a result's buffer then holds what would have occupied the arena longest.
        first = homes.rep.get(operand, operand)
        source = homes.outer.get(first, first)
        # None better than what is to be overwritten anyway: the result needs no buffer then.
        return -1 if target is not None and given_away.get(source) is target else dying.get(source, math.inf)

    for position, node in enumerate(task.nodes):
        if node.operator.view:
            continue
        taken: set[Value] = set()
        for name, value in zip((o.name for o in node.inference.rule.outputs), node.outputs, strict=True):
            homes.rep[value] = value
            if value in task.space.summed or value in homes.inverse:
                continue
            target = task.outer.get(value)
            for operand in sorted(_candidates(node, name, rules), key=partial(age, target=target)):
                if operand in taken or operand not in homes.rep or operand in leaving or operand in homes.inverse:
                    continue
                same = (
                    operand.dtype == value.dtype
                    and task.shapes[operand] == task.shapes[value]
                    and task.space.dims[operand] == task.space.dims[value]
                )
                if sum(root[each] is root[operand] for each in node.inputs) > 1:
                    continue  # it would be overwritten while it is still to be read
                first = homes.rep[operand]
                source = homes.outer.get(first)
                free = source is None or (source in dying and target not in fixed)
                free = free or (source is not None and target is not None and given_away.get(source) is target)
                cut = loops <= {factor for axis in task.space.dims[operand] for factor in axis}
                if same and free and cut and homes.last[operand] == position and operand not in task.space.summed:
                    homes.rep[value] = first
                    taken.add(operand)
                    break
    for value in task.leaving:
        if value not in homes.rep:
            continue
        first = homes.rep[value]
        if first in entering and first is not value:
            homes.takeovers.append((task.outer[value], homes.outer[first]))
        homes.outer[first] = task.outer[value]
    return homes


def _roots(task: Task) -> dict[Value, Value]:
    """For each value, the one that it is a view of, or itself."""
    root: dict[Value, Value] = {}
    for value in task.shapes:
        root[value] = value
    for node in task.nodes:
        if node.operator.view:
            root[node.outputs[0]] = root[node.inputs[0]]
    return root


def _candidates(node: Node, output: str, rules: Rules) -> Iterable[Value]:
    """The operands whose memory an output may take over."""
    rule = rules.find(node.operator)
    inputs = zip((o.name for o in node.inference.rule.inputs), node.inputs, strict=True)
    if rule is None:
        # A reference kernel has finished before its result is copied.
        return [value for _, value in inputs]
    allowed = rule.inplace.get(output, ())
    return [value for name, value in inputs if name in allowed]


@dataclass(frozen=True)
class Block:
    """A part of the arena: bytes from `offset`, occupied from task `start` to task `end`."""

    value: Value
    size: int
    start: int
    end: int
    offset: int = 0


@dataclass(frozen=True)
class Arena:
    """The planned arena: its size in bytes, each value's offset, and the blocks.

    `hosted` are values that lie in a result's buffer instead, which takes them over.
    """

    size: int
    offsets: Mapping[Value, int]
    blocks: tuple[Block, ...]
    hosted: Mapping[Value, Value]

    def fullest(self) -> int:
        """The task during which most bytes are occupied."""
        changes: dict[int, int] = {}
        for block in self.blocks:
            changes[block.start] = changes.get(block.start, 0) + block.size
            changes[block.end + 1] = changes.get(block.end + 1, 0) - block.size
        now, most, at = 0, 0, 0
        for task in sorted(changes):
            now += changes[task]
            if now > most:
                most, at = now, task
        return at

    def alive(self, task: int) -> list[Block]:
        """The blocks that are occupied during a task, the largest first."""
        found = [block for block in self.blocks if block.start <= task <= block.end]
        return sorted(found, key=lambda block: -block.size)


def plan_arena(
    tasks: Sequence[Task], homes: Sequence[Homes], outside: Set[Value], packed: Mapping[Value, int], alignment: int
) -> Arena:
    """Puts every value that is not `outside` into the arena; `packed` are sizes that differ."""
    owner: dict[Value, Value] = {}
    hosts: dict[Value, Value] = {}
    for home in homes:
        for new, old in home.takeovers:
            if old in outside:
                continue  # the caller's own array
            if new in outside:
                hosts[owner.get(old, old)] = new
            else:
                owner[new] = owner.get(old, old)
    spans: dict[Value, list[int]] = {}
    sizes: dict[Value, int] = {}
    for index, task in enumerate(tasks):
        for inner, value in task.outer.items():
            if value in outside:
                continue
            block = owner.get(value, value)
            if block in hosts:
                continue
            span = spans.setdefault(block, [index, index])
            span[1] = index
            size = DTYPES[value.dtype]
            for length in task.shapes[inner]:
                size *= length
            sizes[block] = max(sizes.get(block, 0), packed.get(value, size))
    blocks = _place([Block(value, sizes[value], *spans[value]) for value in spans], alignment)
    offsets = {block.value: block.offset for block in blocks}
    hosted = dict(hosts)
    for value, block in owner.items():
        if block in hosts:
            hosted[value] = hosts[block]
        else:
            offsets[value] = offsets[block]
    top = max((block.offset + block.size for block in blocks), default=0)
    return Arena(top, offsets, tuple(blocks), hosted)


def _place(blocks: Sequence[Block], alignment: int) -> list[Block]:
    """Offsets for blocks so that none overlap in time and place: the largest first, each as low as it fits."""
    # Python's own integers for a plan larger than any memory, which is refused when it is to be allocated.
    kind = np.int64 if sum(block.size for block in blocks) < 1 << 60 else object
    starts, ends, lows, highs = (np.zeros(len(blocks), kind) for _ in range(4))
    placed: list[Block] = []
    for count, block in enumerate(sorted(blocks, key=lambda each: (-each.size, each.start))):
        rivals = np.nonzero((starts[:count] <= block.end) & (ends[:count] >= block.start))[0]
        rivals = rivals[np.argsort(lows[rivals])]
        # Below each rival lies a gap, from the highest end of those before it; above all of them there is room.
        floors = np.concatenate(([0], np.maximum.accumulate(highs[rivals])))
        fits = np.nonzero(floors[:-1] + block.size <= lows[rivals])[0]
        offset = int(floors[fits[0]] if len(fits) else floors[-1])
        starts[count], ends[count], lows[count] = block.start, block.end, offset
        highs[count] = rounded(offset + block.size, alignment)
        placed.append(replace(block, offset=offset))
    return placed
