"""Choosing tiles: small enough for a core's cache, large enough to be worth a call, shared out evenly.

How a task is cut is a `Cut`: any cut that `Tiling.cut` could name is right, and only some are fast. Tests draw them at
random, so that small sizes meet every boundary that large ones have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphir.backends.compiled.task import Pieces, Task, Tile, Tiles
from graphir.ir.analysis import contracted
from graphir.ir.roles import Factor
from graphir.ir.value import Value


@dataclass(frozen=True)
class Cut:
    """How a task is cut into tiles for threads.

    widths   how wide a tile is along a loop; along those that are not named it is as wide as the thread's share
    shared   the loop whose range threads share, if there is one
    bounds   where in it each thread's share begins, and the last one's ends: 0, …, size; a share may be empty
    """

    widths: Mapping[Factor, int] = field(default_factory=dict)
    shared: Factor | None = None
    bounds: tuple[int, ...] = ()

    def tiles(self, task: Task, threads: int) -> list[Tiles]:
        """For each thread its tiles; without a loop that is shared, the first has all."""
        if self.shared is None:
            return [self._share(task, {}), *(Tiles.none() for _ in range(threads - 1))]
        shares = [self._share(task, {self.shared: each}) for each in itertools.pairwise(self.bounds)]
        return shares + [Tiles.none() for _ in range(threads - len(shares))]

    def _share(self, task: Task, share: Tile) -> Tiles:
        pieces = []
        for loop in task.space.loops:
            start, stop = share.get(loop, (0, task.sizes[loop]))
            pieces.append(Pieces(loop, start, stop, max(1, min(self.widths.get(loop, stop - start), stop - start))))
        return Tiles(tuple(pieces), task.causal, 0 if task.causal is None else task.sizes[task.causal.k])

    def follow(self, loops: Sequence[Factor], others: Sequence[Factor]) -> Cut:
        """The same cut of another task: by its loops, `others`, in place of `loops`."""
        named = dict(zip(loops, others, strict=True))
        widths = {named[loop]: width for loop, width in self.widths.items()}
        return Cut(widths, None if self.shared is None else named[self.shared], self.bounds)


@dataclass(frozen=True)
class Tiling:
    """How an engine's tasks are cut.

    bytes    what the values of one tile may take together, as if each had memory of its own
    small    bytes below which a task is not worth a second thread
    causal   the least and the most queries of a tile that leaves out the causal half
    casts    bytes of what a product reads in more bits than it is stored in, which are cast and multiplied at a time
    scores   how many values as large as the scores a tile of attention has at work, of 4 bytes each
    grain    of how many queries, and keys, at a time it is looked at what is seen
    worth    how many products of two numbers nobody has to look at, of each tile in the mean, for it to be worth
             other calls
    uneven   by how much a thread's share may be larger than the mean before another loop is tried
    whole    whether tasks stay whole, but for attention, of which only the queries are cut
    """

    bytes: int
    small: int
    causal: tuple[int, int]
    casts: int = 1 << 20
    scores: int = 3
    grain: int = 64
    worth: int = 1 << 20
    uneven: float = 1.1
    whole: bool = False

    def cut(self, task: Task, threads: int) -> Cut:
        """How to cut `task` for so many threads."""
        loops = [loop for loop in task.space.loops if task.sizes[loop] > 1]
        total = sum(task.bytes(value, {}) for value in task.shapes)
        parts = 1 if total <= self.small and not self._is_heavy(task) else threads
        shared = self._loop_to_share(task, loops, parts)
        if shared is None:
            return Cut(self._widths(task, {}))
        size = task.sizes[shared]
        parts = min(parts, size)
        bounds = tuple(size * i // parts for i in range(parts + 1))
        # The first share is as large as any but the last, to one.
        most = max(stop - start for start, stop in itertools.pairwise(bounds))
        return Cut(self._widths(task, {shared: most}), shared, bounds)

    # -- threads --------------------------------------------------------------------------------------

    def _is_heavy(self, task: Task) -> bool:
        return any(contracted(node) for node in task.nodes) and math.prod(task.sizes.values()) > self.small

    def _loop_to_share(self, task: Task, loops: Sequence[Factor], parts: int) -> Factor | None:
        """The loop whose ranges threads share: the outermost that shares out evenly; of one product, the longest."""
        fitting = [loop for loop in loops if task.sizes[loop] >= parts > 1]
        if not fitting:
            return None
        if task.product is not None:
            # Threads that share what is cast need not each cast all of it.
            casting = [loop for loop in fitting if loop in _loops_of(task, task.widened)]
            fitting = casting or fitting
            # Each thread packs the operand that it does not share: the longer side is the one to cut.
            return max(fitting, key=lambda loop: (task.sizes[loop] * _rows_before(task, loop), -loops.index(loop)))

        def unevenness(loop: Factor) -> float:
            return math.ceil(task.sizes[loop] / parts) * parts / task.sizes[loop]

        even = [loop for loop in fitting if unevenness(loop) <= self.uneven]
        return even[0] if even else min(fitting, key=unevenness)

    # -- tiles ----------------------------------------------------------------------------------------

    def _widths(self, task: Task, share: Mapping[Factor, int]) -> dict[Factor, int]:
        """How wide tiles are, of a share that is so wide."""
        widths = {loop: share.get(loop, task.sizes[loop]) for loop in task.space.loops}
        if task.causal is not None:
            least, most = self.causal
            q = task.causal.q
            widths[q] = min(widths[q], max(least, min(most, widths[q] // 4)))
        if task.product is None:
            self._shrink(task, widths)
        elif task.widened:
            self._shrink_casts(task, widths)
        return widths

    def _shrink_casts(self, task: Task, widths: dict[Factor, int]) -> None:
        """Halves the ranges along which a product's operands are cast, until a tile's part of them fits."""
        for loop in self._order(task):
            while loop in _loops_of(task, task.widened) and widths[loop] > 1:
                tile = {each: (0, width) for each, width in widths.items()}
                if sum(task.bytes(value, tile) for value in task.widened) <= self.casts:
                    return
                widths[loop] = -(-widths[loop] // 2)

    def _shrink(self, task: Task, widths: dict[Factor, int]) -> None:
        """Halves the ranges, the outermost first, until the values of a tile fit."""

        def size() -> int:
            tile = {loop: (0, width) for loop, width in widths.items()}
            if task.causal is not None:
                return self.scores * 4 * math.prod(widths.values()) * _keys_and_whole(task)
            return sum(task.bytes(value, tile) for value in task.materialised if _is_cut(task, value))

        for loop in self._order(task):
            while widths[loop] > 1 and size() > self.bytes:
                widths[loop] = -(-widths[loop] // 2)

    def _order(self, task: Task) -> Sequence[Factor]:
        """The loops that may be cut, the first first."""
        last = task.causal.q if task.causal is not None else None
        order = [*(loop for loop in task.space.loops if loop != last), *([] if last is None else [last])]
        if not self.whole:
            return order
        # What a task with a product inside holds in full are scores; the last of its loops are the queries.
        return order[-1:] if any(contracted(node) for node in task.nodes if not node.operator.view) else []


def _keys_and_whole(task: Task) -> int:
    """How many scores there are for each combination of indices of the loops: keys, and heads of a group."""
    assert task.causal is not None
    factors = {task.causal.k}
    for axes in task.space.dims.values():
        mine = {factor for axis in axes for factor in axis}
        if mine.issuperset((task.causal.q, task.causal.k)):
            factors |= mine
    return math.prod(task.sizes[factor] for factor in factors.difference(task.space.loops))


def _rows_before(task: Task, loop: Factor) -> int:
    """Of a product's result [*b, m, n]: with what a dim counts as rows, n as itself."""
    assert task.product is not None
    dims = [axis[0] for axis in task.space.dims[task.product.outputs[0]]]
    return 1 if loop == dims[-1] else math.prod(task.sizes[each] for each in dims[:-1] if each != loop)


def _loops_of(task: Task, values: Iterable[Value]) -> set[Factor]:
    """The loops along which tiles have parts of these values."""
    return {factor for value in values for axis in task.space.dims[value] for factor in axis} & {*task.space.loops}


def _is_cut(task: Task, value: Value) -> bool:
    return any(axis and axis[0] in task.space.loops for axis in task.space.dims[value])
