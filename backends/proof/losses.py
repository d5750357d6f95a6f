"""What writing takes away: which of the elements that lie in memory have a byte where another array is written."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.backends.proof.boxes import Box, Range
from graphir.backends.proof.lays import Lay, nested

#: Rows that are looked at each for itself; of more, all between the first and the last are lost.
_ROWS = 512
#: Dims that elements lie along: (stride, dim, count), the widest stride first.
_Held = Sequence[tuple[int, int, int]]
#: Dims of runs that are written: (stride, count), the widest stride first.
_Runs = Sequence[tuple[int, int]]
#: Ranges of dims; those that it does not have are whole.
_Part = dict[int, Range]


def lost_of(held: Lay, bounds: Box, lay: Lay) -> list[Box]:
    """The boxes of elements at `held`, which have the indices `bounds`, that writing `lay` takes away."""
    if lay.low <= held.low and lay.high >= held.high and lay.is_dense:
        return [bounds]
    same = _aligned(held, bounds, lay)
    if same is not None:
        return [same]
    if not held.touches(lay):
        return []
    if any(step <= 0 for n, step in zip(held.shape, held.strides, strict=True) if n > 1) or not nested(
        held.strides, held.shape, held.itemsize
    ):
        return [bounds]
    dims = sorted(((s, dim, n) for dim, (n, s) in enumerate(zip(held.shape, held.strides, strict=True)) if n > 1))
    start, runs, run = lay.form
    parts = _Crossing(held.itemsize, run).find(start - held.address, runs, dims[::-1])
    return [
        tuple(
            [
                (low + part[dim][0], low + part[dim][1]) if dim in part else (low, high)
                for dim, (low, high) in enumerate(bounds)
            ]
        )
        for part in parts
    ]


class _Crossing:
    """Elements of `itemsize` bytes, and runs that are written across them."""

    def __init__(self, itemsize: int, run: int) -> None:
        self._itemsize, self._run, self._left = itemsize, run, _ROWS

    def find(self, off: int, runs: _Runs, held: _Held) -> list[_Part]:
        """The elements that runs touch, the first of which begins `off` bytes behind the first element."""
        inner = self._itemsize + sum(step * (count - 1) for step, _, count in held)
        reach = self._run + sum(step * (count - 1) for step, count in runs)
        if off >= inner or off + reach <= 0:
            return []
        if not held or (not runs and off <= 0 and off + reach >= inner):
            return [{}] if not runs or self._touches(off, runs) else []
        step = held[0][0]
        wide, times = runs[0] if runs else (0, 1)
        if wide == step:
            return self._side_by_side(off, runs, held)
        if wide > step:
            first, last = max(0, -((off + reach - wide * (times - 1) - 1) // wide)), (inner - off - 1) // wide
            rows = range(first, min(times - 1, last) + 1)
            if not self._afford(len(rows)):
                return [{}]
            return [part for row in rows for part in self.find(off + row * wide, runs[1:], held)]
        if runs and step % wide == 0 and times > step // wide:
            # So many runs are as wide as a row: as rows of runs, and what is left over.
            each, rest = step // wide, times % (step // wide)
            found = self.find(off, [(step, times // each), (wide, each), *runs[1:]], held)
            start = off + (times - rest) * wide
            return found + (self.find(start, [(wide, rest), *runs[1:]] if rest > 1 else runs[1:], held) if rest else [])
        return self._row_by_row(off, runs, held, reach)

    def _side_by_side(self, off: int, runs: _Runs, held: _Held) -> list[_Part]:
        """Rows of runs lie as rows of elements do, each across one of them, or two."""
        (step, dim, count), (_, times) = held[0], runs[0]
        reach = self._run + sum(wide * (n - 1) for wide, n in runs[1:])
        row, inside = divmod(off, step)
        found: list[_Part] = []
        while inside + reach > 0:
            low, high = max(row, 0), min(row + times, count)
            if low < high:
                found += [{dim: (low, high), **part} for part in self.find(inside, runs[1:], held[1:])]
            row, inside = row + 1, inside - step
        return found

    def _row_by_row(self, off: int, runs: _Runs, held: _Held, reach: int) -> list[_Part]:
        (step, dim, count), inner = held[0], self._itemsize + sum(wide * (n - 1) for wide, _, n in held[1:])
        low, high = max(0, -((inner - off - 1) // step)), min(count, -(-(off + reach) // step))
        if not runs:
            # One run: all rows between the first and the last that it touches are in it, whole.
            first, last = max(low, -(-off // step)), min(high, (off + reach - inner) // step + 1)
            whole: list[_Part] = [{dim: (first, last)}] if first < last else []
            rows = [row for row in (low, high - 1) if not first <= row < last]
            rows = sorted({*rows}) if low < high else []
        else:
            whole, rows = [], [*range(low, high)]
            if not self._afford(len(rows)):
                return [{dim: (low, high)}]
        return whole + [
            {dim: (row, row + 1), **part} for row in rows for part in self.find(off - row * step, runs, held[1:])
        ]

    def _touches(self, off: int, runs: _Runs) -> bool:
        """Whether a run touches the one element that is left."""
        if not runs:
            return -self._run < off < self._itemsize
        (wide, times), others = runs[0], runs[1:]
        reach = self._run + sum(step * (n - 1) for step, n in others)
        first, last = max(0, -((off + reach - 1) // wide)), min(times - 1, (self._itemsize - off - 1) // wide)
        return any(self._touches(off + row * wide, others) for row in range(first, last + 1))

    def _afford(self, rows: int) -> bool:
        self._left -= rows
        return self._left >= 0


def _aligned(held: Lay, bounds: Box, lay: Lay) -> Box | None:
    """The indices of `lay` among elements that lie alike; None if they do not lie alike, or not all in it."""
    if lay.itemsize != held.itemsize or len(lay.shape) != len(held.strides):
        return None
    dims: list[tuple[int, int, int]] = []
    for dim, (length, step) in enumerate(zip(lay.shape, lay.strides, strict=True)):
        low, high = bounds[dim]
        if high - low == 1 and length == 1:
            continue
        if length > 1 and step != held.strides[dim]:
            return None
        dims.append((held.strides[dim], dim, high - low))
    found: dict[int, int] = {}
    if not search(sorted(dims, reverse=True), lay.address - held.address, lay.shape, found):
        return None
    starts = [found.get(dim, 0) for dim in range(len(bounds))]
    # What goes on behind the last index of a dim may be the next row.
    if any(
        start < 0 or start + length > high - low
        for start, length, (low, high) in zip(starts, lay.shape, bounds, strict=True)
    ):
        return None
    return tuple([(low + at, low + at + n) for (low, _), at, n in zip(bounds, starts, lay.shape, strict=True)])


def search(dims: Sequence[tuple[int, int, int]], off: int, lengths: Sequence[int], found: dict[int, int]) -> bool:
    """Finds the first index along each of `dims`, (stride, dim, count), where an overlap begins `off` bytes on."""
    if not dims:
        return off == 0
    (step, dim, count), *others = dims
    if step <= 0:
        return False
    for index in (off // step, off // step + 1):
        if -lengths[dim] < index < count and search(others, off - index * step, lengths, found):
            found[dim] = index
            return True
    return False
