"""Choosing tiles: small enough for a core's cache, large enough to be worth a call, shared out evenly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from graphir.backends.compiled.engine import Tiling
from graphir.backends.compiled.task import Pieces, Task, Tile, Tiles
from graphir.ir.analysis import contracted
from graphir.ir.tiling import Factor
from graphir.ir.value import Value


def choose_tiles(task: Task, threads: int, tiling: Tiling) -> None:
    """Gives `task` its tiles."""
    loops = [loop for loop in task.space.loops if task.sizes[loop] > 1]
    total = sum(task.bytes(value, {}) for value in task.shapes)
    parts = 1 if total <= tiling.small and not _is_heavy(task, tiling) else threads
    split = _loop_to_split(task, loops, parts, tiling)
    if split is None:
        task.tiles = [_cut(task, {}, tiling), *(Tiles.none() for _ in range(threads - 1))]
        return
    size = task.sizes[split]
    parts = min(parts, size)
    bounds = [size * i // parts for i in range(parts + 1)]
    task.tiles = [_cut(task, {split: (start, stop)}, tiling) for start, stop in itertools.pairwise(bounds)]
    task.tiles += [Tiles.none() for _ in range(threads - parts)]
    task.private = frozenset(value for value, over in task.space.summed.items() if split in over)


def _is_heavy(task: Task, tiling: Tiling) -> bool:
    return any(contracted(node) for node in task.nodes) and math.prod(task.sizes.values()) > tiling.small


def _loop_to_split(task: Task, loops: Sequence[Factor], parts: int, tiling: Tiling) -> Factor | None:
    """The loop whose ranges threads share: the outermost that shares out evenly; of one product, the longest."""
    fitting = [loop for loop in loops if task.sizes[loop] >= parts > 1]
    if not fitting:
        return None
    if task.product is not None:
        # Each thread packs the operand that it does not share: the longer side is the one to cut.
        return max(fitting, key=lambda loop: (task.sizes[loop] * _rows_before(task, loop), -loops.index(loop)))

    def unevenness(loop: Factor) -> float:
        return math.ceil(task.sizes[loop] / parts) * parts / task.sizes[loop]

    even = [loop for loop in fitting if unevenness(loop) <= tiling.uneven]
    return even[0] if even else min(fitting, key=unevenness)


def _rows_before(task: Task, loop: Factor) -> int:
    """Of a product's result [*b, m, n]: with what a dim counts as rows, n as itself."""
    assert task.product is not None
    dims = [axis[0] for axis in task.space.dims[task.product.outputs[0]]]
    return 1 if loop == dims[-1] else math.prod(task.sizes[each] for each in dims[:-1] if each != loop)


def _cut(task: Task, share: Tile, tiling: Tiling) -> Tiles:
    """A thread's share as tiles."""
    ranges = {loop: share.get(loop, (0, task.sizes[loop])) for loop in task.space.loops}
    widths = {loop: stop - start for loop, (start, stop) in ranges.items()}
    if task.causal is not None and not task.held:
        least, most = tiling.causal
        q = task.causal[0]
        widths[q] = min(widths[q], max(least, min(most, widths[q] // 4)))
    if task.product is None and not task.held:
        _shrink(task, widths, tiling)
    pieces = tuple(Pieces(loop, *ranges[loop], widths[loop]) for loop in task.space.loops)
    return Tiles(pieces, task.causal, 0 if task.causal is None else task.sizes[task.causal[1]])


def _shrink(task: Task, widths: dict[Factor, int], tiling: Tiling) -> None:
    """Halves the ranges, the outermost first, until the values of a tile fit."""

    def size() -> int:
        tile = {loop: (0, width) for loop, width in widths.items()}
        if task.causal is not None:
            # By the loops alone: forward and backward must cut what is stored between them alike.
            return tiling.scores * 4 * math.prod(widths.values()) * task.sizes[task.causal[1]]
        return sum(task.bytes(value, tile) for value in task.materialised if _is_cut(task, value))

    for loop in _order(task, tiling):
        while widths[loop] > 1 and size() > tiling.bytes:
            widths[loop] = -(-widths[loop] // 2)


def _order(task: Task, tiling: Tiling) -> Sequence[Factor]:
    """The loops that may be cut, the first first."""
    last = task.causal[0] if task.causal is not None else None
    order = [*(loop for loop in task.space.loops if loop != last), *([] if last is None else [last])]
    if not tiling.whole:
        return order
    # What a task with a product inside holds in full are scores; the last of its loops are the queries.
    return order[-1:] if any(contracted(node) for node in task.nodes if not node.operator.view) else []


def _is_cut(task: Task, value: Value) -> bool:
    return any(axis and axis[0] in task.space.loops for axis in task.space.dims[value])
