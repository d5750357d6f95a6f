"""Finding a value in memory: which of its elements an array shows, and whether they are there, whole.

An array of a view is looked for where the view's operand lies, seen through the view: of a transpose the strides change
places, of a broadcast the new dims have stride 0, of a merged dim both parts must lie one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphir.backends.proof.boxes import Box, missing, whole
from graphir.backends.proof.halves import lies_beyond
from graphir.backends.proof.items import Axes, Item, View
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.memory import Holding, Memory

#: Of a dim, the first index, None where all are alike, and how many.
Reach = tuple[int | None, int]


@dataclass(frozen=True)
class Found:
    """An array's elements: the ranges of the value's dims, and, of the one who holds them, the boxes they are there."""

    reach: tuple[Reach, ...]
    holding: Holding
    boxes: Sequence[Box]

    def terms(self) -> list[Box]:
        """Of a sum, the terms that are in these elements."""
        assert self.holding.terms is not None
        everything = whole(self.holding.item.terms.values())
        return self.holding.terms.within([(*box, *everything) for box in self.boxes])

    def unwritten(self) -> list[Box]:
        """The elements that are not there."""
        return missing(self.boxes, self.holding.valid.boxes)

    def lacking(self) -> list[Box]:
        """Of a sum, the terms that are still to be added: those that are 0 are not."""
        item = self.holding.item
        if self.holding.terms is None:
            return []
        rest = missing([(*box, *whole(item.terms.values())) for box in self.boxes], self.holding.terms.boxes)
        return [box for box in rest if not any(lies_beyond(half, box) for half in item.spared)]


@dataclass(frozen=True)
class _Lattice:
    """Where a value's elements lie within a box: the address of its first, strides, and dims where all are alike."""

    start: int
    strides: tuple[int, ...]
    box: Box
    floating: frozenset[int]


def find(memory: Memory, item: Item, lay: Lay) -> list[Found]:
    """The places of `item` that `lay` may be a part of; the most complete first."""
    found = []
    for ancestor, path in item.family():
        for holding in memory.by_item.get(ancestor, ()):
            if holding.lay.low >= lay.high or holding.lay.high <= lay.low or holding.itemsize != lay.itemsize:
                continue
            lattice: _Lattice | None = _Lattice(
                holding.lay.address, holding.strides, holding.bounds, holding.floating
            )
            for view in path:
                lattice = None if lattice is None else _seen(view, lattice)
            starts = None if lattice is None else _starts(lattice, lay)
            if lattice is None or starts is None:
                continue
            box = tuple([(start, start + length) for start, length in zip(starts, lay.shape, strict=True)])
            boxes = [box]
            for view in reversed(path):
                boxes = view.back(boxes)
            reach = tuple(
                [(None if dim in lattice.floating else low, high - low) for dim, (low, high) in enumerate(box)]
            )
            found.append(Found(reach, holding, boxes))
    if len(found) > 1:
        found.sort(key=lambda each: (bool(each.unwritten()), bool(each.lacking())))
    return found


def _starts(lattice: _Lattice, lay: Lay) -> list[int] | None:
    """The first index of `lay` along each dim; None if it is no part of the lattice."""
    off = lay.address - lattice.start
    if off < 0:
        return None
    starts = [low for low, _ in lattice.box]
    dims = []
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


def _seen(view: View, lattice: _Lattice) -> _Lattice | None:
    """A view's elements in its operand's memory; None where they do not lie in any lattice."""
    if view.before == view.after:
        return lattice
    steps: dict[str, int] = {}
    start = lattice.start
    sizes = view.sizes
    alone: set[str] = set()
    loose: set[str] = set()
    for dim, factors in enumerate(view.before):
        step = lattice.strides[dim]
        for factor in reversed(factors):
            steps[factor] = step
            step *= sizes[factor]
            if dim in lattice.floating:
                loose.add(factor)
        if len(factors) == 1 and lattice.box[dim][1] - lattice.box[dim][0] == 1:
            alone.add(factors[0])
    boxes = view.forth(lattice.box)
    if not boxes:
        return None
    box = tuple([(min(each[0] for each in dim), max(each[1] for each in dim)) for dim in zip(*boxes, strict=True)])
    strides, floating = [], set()
    for dim, factors in enumerate(view.after):
        if not all(factor in steps for factor in factors):
            strides.append(0)
            floating.add(dim)
            continue
        if not floating.isdisjoint((dim,)) or any(factor in loose for factor in factors):
            floating.add(dim)
        step = _together(factors, steps, sizes, alone)
        if step is None:
            return None
        strides.append(step)
    # The first element of the hull of several boxes is where the lattice's own would be.
    first = _first(view, box, lattice, steps)
    return None if first is None else _Lattice(start + first, tuple(strides), box, frozenset(floating))


def _together(factors: Sequence[str], steps: dict[str, int], sizes: object, alone: set[str]) -> int | None:
    """The stride of a dim made of several factors; None if they do not lie one behind the other."""
    if not factors:
        return 0
    known: dict[str, int] = sizes  # type: ignore[assignment]
    inner = [factor for factor in factors if known[factor] > 1] or [factors[-1]]
    step = steps[inner[-1]]
    reach = step * known[inner[-1]]
    for factor in reversed(inner[:-1]):
        if steps[factor] != reach and factor not in alone:
            return None
        reach *= known[factor]
    return step


def _first(view: View, box: Box, lattice: _Lattice, steps: dict[str, int]) -> int | None:
    """How far the view's first element of `box` lies from the lattice's own first."""
    corner = tuple([(low, low + 1) for low, _ in box])
    before = view.back([corner])
    if not before:
        return None
    off = 0
    for dim, ((low, _), (first, last)) in enumerate(zip(before[0], lattice.box, strict=True)):
        if _is_new(view.before[dim], view.after):
            continue
        if not first <= low < last:
            return None
        off += (low - first) * lattice.strides[dim]
    return off


def _is_new(factors: Sequence[str], axes: Axes) -> bool:
    """Whether the other side of a view has none of these factors."""
    return not any(factor in axis for axis in axes for factor in factors)


# -- from a view back to what it is a view of ------------------------------------------------------------


def rooted(item: Item, lay: Lay, box: Box) -> tuple[Item, Lay, Box]:
    """The same memory as part of what `item` is a view of, as far up as that can be said."""
    while item.view is not None:
        view = item.view
        steps: dict[str, int] = {}
        lengths: dict[str, int] = {}
        boxes = view.back([box])
        if len(boxes) != 1:
            break
        fits = True
        for dim, factors in enumerate(view.after):
            if not all(any(factor in axis for axis in view.before) for factor in factors):
                fits = fits and lay.shape[dim] == 1
                continue
            step = lay.strides[dim]
            for factor in reversed(factors):
                steps[factor] = step
                step *= view.sizes[factor]
            if len(factors) == 1:
                lengths[factors[0]] = lay.shape[dim]
        strides: list[int] = []
        for factors in view.before:
            alone = {factor for factor in factors if lengths.get(factor, 2) == 1}
            together = _together(factors, steps, view.sizes, alone)
            # A minor factor of a single index under a major one of several leaves gaps.
            inner = [factor for factor in factors[1:] if view.sizes[factor] > 1]
            fits = fits and together is not None and (len(factors) == 1 or not alone.intersection(inner))
            strides.append(together or 0)
        if not fits:
            break
        item, box = view.operand, boxes[0]
        lay = Lay(lay.address, tuple([high - low for low, high in box]), tuple(strides), lay.itemsize)
    return item, lay, box
