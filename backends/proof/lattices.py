"""Lattices: elements of a value that lie in memory in even steps, and the same elements as those of a view.

Through a transpose the strides change places, through a broadcast the new dims have stride 0; of a merged dim both
parts must lie one behind the other, or are looked at row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from graphir.backends.proof.boxes import Box, common
from graphir.backends.proof.items import Axes, View
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.losses import search

#: So many elements of a dim are looked at each for itself, and so many rows of a view that lie apart.
_APART, _ROWS = 8, 64


class Lattice(NamedTuple):
    """Where a value's elements lie within a box: the address of its first, strides, and dims where all are alike."""

    start: int
    strides: tuple[int, ...]
    box: Box
    floating: frozenset[int]

    def part(self, box: Box) -> Lattice:
        """Those of its elements that are in a box of its own."""
        pairs = zip(box, self.box, self.strides, strict=True)
        off = sum((low - least) * step for (low, _), (least, _), step in pairs)
        return Lattice(self.start + off, self.strides, box, self.floating)


def views_of(lattice: Lattice, path: Sequence[View], near: Lay | None) -> list[Lattice]:
    """The same elements as those of a view of a view …, in as many lattices as they lie in.

    Rows that do not lie as the view joins them are told apart as far as they are `near`.
    """
    found = [lattice]
    for view in path:
        found = [made for each in found for made in _views(view, each, near)]
    return found


def _views(view: View, lattice: Lattice, near: Lay | None) -> Iterator[Lattice]:
    for box in view.forth(lattice.box):
        for back in view.back([box]):
            inner = common(back, lattice.box)
            if inner is None:
                continue
            part = lattice.part(inner)
            made = viewed(view, part)
            if made is not None and len(view.forth(inner)) == 1:
                yield made
            elif near is not None:
                for row in _rows(view, part, near):
                    yield from _views(view, row, near)


def _rows(view: View, lattice: Lattice, near: Lay) -> Sequence[Lattice]:
    """Single indices of the first dim of several that a view joins with minor ones: those that come near an array."""
    major = {factor for factors in view.after for factor in factors[:-1]}
    for dim, ((low, high), step) in enumerate(zip(lattice.box, lattice.strides, strict=True)):
        if high - low > 1 and step > 0 and not major.isdisjoint(view.before[dim]):
            reach = near.itemsize + sum(
                stride * (stop - start - 1)
                for each, ((start, stop), stride) in enumerate(zip(lattice.box, lattice.strides, strict=True))
                if each != dim
            )
            first = max(low, low - (lattice.start + reach - near.low - 1) // step)
            last = min(high, low - (lattice.start - near.high) // step)
            if last - first > _ROWS:
                return []
            boxes = [(*lattice.box[:dim], (at, at + 1), *lattice.box[dim + 1 :]) for at in range(first, last)]
            return [lattice.part(box) for box in boxes]
    return []


def fitting(lattice: Lattice, lay: Lay) -> list[Lattice]:
    """The same elements, each for itself along dims where `lay` has another stride."""
    parts = [lattice]
    for dim, ((low, high), length) in enumerate(zip(lattice.box, lay.shape, strict=True)):
        step = lattice.strides[dim]
        if 1 < high - low <= _APART and length > 1 and step != lay.strides[dim]:
            parts = [
                each._replace(
                    start=each.start + index * step,
                    box=(*each.box[:dim], (low + index, low + index + 1), *each.box[dim + 1 :]),
                )
                for each in parts
                for index in range(high - low)
            ]
    return parts


def origin_of(lattice: Lattice, lay: Lay) -> tuple[int, ...] | None:
    """The indices that the first element of `lay` has if some of its elements are the lattice's; None if none are."""
    dims: list[tuple[int, int, int]] = []
    lengths = [high - low for low, high in lattice.box]
    for dim, (length, count) in enumerate(zip(lay.shape, lengths, strict=True)):
        mine, step = lattice.strides[dim], lay.strides[dim]
        if length > 1 and count > 1 and mine != step:
            return None
        step = step if length > 1 else mine
        if (length > 1 or count > 1) and (step or dim not in lattice.floating):
            dims.append((step, dim, length))
    begins: dict[int, int] = {}
    if not search(sorted(dims, reverse=True), lattice.start - lay.address, lengths, begins):
        return None
    return tuple([low - begins.get(dim, 0) for dim, (low, _) in enumerate(lattice.box)])


def starts_of(lattice: Lattice, lay: Lay) -> list[int] | None:
    """The first index of `lay` along each dim; None if it is no part of the lattice."""
    off = lay.address - lattice.start
    if off < 0:
        return None
    starts = [low for low, _ in lattice.box]
    dims: list[tuple[int, int]] = []
    for dim, ((low, high), length) in enumerate(zip(lattice.box, lay.shape, strict=True)):
        step = lattice.strides[dim]
        if length > 1 and lay.strides[dim] != step:
            return None
        if step == 0 or high - low == 1:
            if length > high - low:
                return None
        else:
            dims.append((step, dim))
    for step, dim in sorted(dims, reverse=True):
        low, high = lattice.box[dim]
        index = min(off // step, high - low - lay.shape[dim])
        if index < 0:
            return None
        off -= index * step
        starts[dim] += index
    return starts if off == 0 else None


def viewed(view: View, lattice: Lattice) -> Lattice | None:
    """A view's elements in its operand's memory; None where they do not lie in any lattice."""
    boxes = view.forth(lattice.box)
    if not boxes:
        return None
    box = tuple([(min(low for low, _ in dim), max(high for _, high in dim)) for dim in zip(*boxes, strict=True)])
    # Where the view's first element lies: the hull of several boxes begins with one of theirs.
    first = view.back([tuple([(low, low + 1) for low, _ in box])])[0]
    start = lattice.start
    for (low, _), (least, most), stride in zip(first, lattice.box, lattice.strides, strict=True):
        if not least <= low < most:
            return None
        start += (low - least) * stride
    lengths = [high - low for low, high in lattice.box]
    steps, alone = by_factor(view.before, lattice.strides, lengths, view.sizes)
    loose = {factor for dim in lattice.floating for factor in view.before[dim]}
    strides, floating = [], set[int]()
    for dim, factors in enumerate(view.after):
        new = any(factor not in steps and view.sizes[factor] != 1 for factor in factors)
        if new or not loose.isdisjoint(factors):
            floating.add(dim)
        step = 0 if new else together(factors, steps, view.sizes, alone)
        if step is None:
            return None
        strides.append(step)
    return Lattice(start, tuple(strides), box, frozenset(floating))


def by_factor(
    axes: Axes, strides: Sequence[int], lengths: Sequence[int], sizes: Mapping[str, int]
) -> tuple[dict[str, int], set[str]]:
    """The stride of each factor, and those of which there is a single index, so that their stride does not count."""
    steps: dict[str, int] = {}
    alone = set[str]()
    for factors, stride, length in zip(axes, strides, lengths, strict=True):
        step = stride
        for factor in reversed(factors):
            steps[factor] = step
            step *= sizes[factor]
        if length == 1:
            alone.update(factors)
    return steps, alone


def together(factors: Sequence[str], steps: Mapping[str, int], sizes: Mapping[str, int], alone: Set[str]) -> int | None:
    """The stride of a dim made of several factors; None if they do not lie one behind the other."""
    longer = [factor for factor in factors if sizes[factor] != 1] or [each for each in factors if each in steps][-1:]
    if not longer:
        return 0
    step = steps[longer[-1]]
    reach = step * sizes[longer[-1]]
    for factor in reversed(longer[:-1]):
        if steps[factor] != reach and factor not in alone:
            return None
        reach *= sizes[factor]
    return step
