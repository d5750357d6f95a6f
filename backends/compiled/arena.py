"""The arena: where in one piece of memory lies what passes between tasks.

Arguments lie where the caller has them, results in buffers of their own, and so does what a result is made of in
place: the last term of a gradient is added to the others where the caller will find the sum. Everything else shares one
arena: a value occupies its part from the task that makes it to the last that reads it, what a task has for itself
while it is carried out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from graphir.backends.compiled.assignment import Assignment, TaskBuffer
from graphir.backends.compiled.engine import rounded
from graphir.backends.compiled.task import Task
from graphir.ir.types import DTYPES
from graphir.ir.value import Value

#: What a task has for itself is nobody else's during so many tasks before it: a thread that runs ahead of the others
#: may write there without meeting them first, since none still reads what lay there.
AHEAD = 3


@dataclass(frozen=True)
class Block:
    """A part of the arena: bytes from `offset`, occupied from task `start` to task `end`."""

    value: Value | TaskBuffer
    size: int
    start: int
    end: int
    offset: int = 0


@dataclass(frozen=True)
class Arena:
    """The planned arena: its size in bytes, each value's offset, and the blocks.

    `in_results` are values that lie in a result's buffer instead: the result is written over them.
    """

    size: int
    offsets: Mapping[Value | TaskBuffer, int]
    blocks: tuple[Block, ...]
    in_results: Mapping[Value, Value]

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
    tasks: Sequence[Task],
    assignments: Sequence[Assignment],
    outside: Set[Value],
    halves: Mapping[Value, int],
    alignment: int,
) -> Arena:
    """Puts every value that is not `outside` into the arena; `halves` are the bytes of those stored as a half."""
    owner: dict[Value, Value] = {}
    results: dict[Value, Value] = {}
    for assignment in assignments:
        for new, old in assignment.reuses:
            if old in outside:
                continue  # the caller's own array
            if new in outside:
                results[owner.get(old, old)] = new
            else:
                owner[new] = owner.get(old, old)
    spans: dict[Value | TaskBuffer, list[int]] = {}
    sizes: dict[Value | TaskBuffer, int] = {}
    for index, (task, assignment) in enumerate(zip(tasks, assignments, strict=True)):
        for inner, value in task.outer.items():
            block = owner.get(value, value)
            if value in outside or block in results:
                continue
            spans.setdefault(block, [index, index])[1] = index
            sizes[block] = max(sizes.get(block, 0), halves.get(value, _bytes(task, inner)))
        for buffer in assignment.task_buffers:
            spans[buffer] = [max(index - AHEAD, 0), index]
            sizes[buffer] = _bytes(task, buffer.value) * max(buffer.threads, 1)
    blocks = _place([Block(value, sizes[value], *spans[value]) for value in spans], alignment)
    offsets = {block.value: block.offset for block in blocks}
    in_results = dict(results)
    for value, block in owner.items():
        if block in results:
            in_results[value] = results[block]
        else:
            offsets[value] = offsets[block]
    top = max((block.offset + block.size for block in blocks), default=0)
    return Arena(top, offsets, tuple(blocks), in_results)


def _bytes(task: Task, value: Value) -> int:
    return math.prod(task.shapes[value]) * DTYPES[value.dtype]


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
