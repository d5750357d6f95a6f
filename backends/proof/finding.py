"""Finding a value in memory: which of its elements an array shows, and whether they are there, whole.

An array of a view is looked for where the view's operand lies, seen through the view (`lattices`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphir.backends.proof.boxes import Box, Region, missing, whole
from graphir.backends.proof.halves import seen_of
from graphir.backends.proof.items import Item, View
from graphir.backends.proof.lattices import (
    Lattice,
    by_factor,
    fitting,
    origin_of,
    starts_of,
    together,
    viewed,
    views_of,
)
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.memory import Holding, Memory

#: Of a dim, the first index, None where all are alike, and how many.
Reach = tuple[int | None, int]


@dataclass(frozen=True)
class Found:
    """An array's elements.

    reach     the ranges of the value's dims
    box       the same as who holds them counts them, which along dims where all are alike may be from anywhere
    boxes     the same in the value that is held, which this one may be a view of
    """

    reach: tuple[Reach, ...]
    box: Box
    holding: Holding
    boxes: Sequence[Box]

    def terms(self) -> list[Box]:
        """Of a sum, the terms that are in these elements."""
        assert self.holding.terms is not None
        if self.boxes == [self.holding.bounds]:
            return list(self.holding.terms.boxes)
        everything = whole(self.holding.item.sums.values())
        return self.holding.terms.within([(*box, *everything) for box in self.boxes])

    @cached_property
    def unwritten(self) -> list[Box]:
        """The elements that are not there."""
        return missing(self.boxes, self.holding.valid.boxes)

    @cached_property
    def lacking(self) -> list[Box]:
        """Of a sum, the terms that are still to be added, of what is a view of nothing: those that are 0 are not."""
        item = self.holding.item
        if self.holding.terms is None:
            return []
        rest = missing([(*box, *whole(item.sums.values())) for box in self.boxes], self.holding.terms.boxes)
        rest = item.back(rest, item.root)
        for half in item.root.spared:
            rest = [part for box in rest for part in seen_of(half, box)]
        return rest


def find(memory: Memory, item: Item, lay: Lay) -> list[Found]:
    """The places of `item` that `lay` may be a part of; the most complete first."""
    found = []
    for ancestor, path in item.family():
        for holding in memory.by_item.get(ancestor, ()):
            if holding.lay.low >= lay.high or holding.lay.high <= lay.low or holding.itemsize != lay.itemsize:
                continue
            lattice: Lattice | None = Lattice(holding.lay.address, holding.strides, holding.bounds, holding.floating)
            for view in path:
                lattice = None if lattice is None else viewed(view, lattice)
            starts = None if lattice is None else starts_of(lattice, lay)
            if lattice is None or starts is None:
                continue
            box = tuple([(start, start + length) for start, length in zip(starts, lay.shape, strict=True)])
            boxes = [box]
            for view in reversed(path):
                boxes = view.back(boxes)
            reach = []
            for dim, (start, length) in enumerate(zip(starts, lay.shape, strict=True)):
                free = dim in lattice.floating
                reach.append((None if free and length < item.shape[dim] else 0 if free else start, length))
            found.append(Found(tuple(reach), box, holding, boxes))
    if all(each.unwritten for each in found):
        found += _gathered(memory, item, lay, apart=False)
    if all(each.unwritten for each in found):
        found += [each for each in _gathered(memory, item, lay, apart=True) if not each.unwritten]
    if len(found) > 1:
        found.sort(key=lambda each: (bool(each.unwritten), bool(each.lacking)))
    return found


@dataclass(frozen=True)
class _Piece:
    """Some of a value's elements that an array shows: where, terms of which are in, and which of its dims float.

    origin    the index that the array's first element has along each dim
    """

    origin: tuple[int, ...]
    box: Box
    terms: Sequence[Box]
    floating: frozenset[int]
    holding: Holding

    def fits(self, origin: Sequence[int]) -> bool:
        """Whether it is in its place in an array that begins there."""
        pairs = enumerate(zip(self.origin, origin, strict=True))
        return all(dim in self.floating or here == there for dim, (here, there) in pairs)

    def moved(self, box: Box, origin: Sequence[int]) -> Box:
        """One of its boxes, with indices counted from the array's beginning where they count from anywhere."""
        found = list(box)
        for dim in self.floating:
            shift = origin[dim] - self.origin[dim]
            found[dim] = found[dim][0] + shift, found[dim][1] + shift
        return tuple(found)


def _gathered(memory: Memory, item: Item, lay: Lay, apart: bool) -> list[Found]:
    """A value's part whose elements are held by several: of itself, and of what it is a view of.

    With `apart`, elements that lie in other strides are looked at each for itself, and so are rows that a view joins
    and that do not lie one behind the other.
    """
    pieces = list(_pieces(memory, item, lay, apart))
    found: list[Found] = []
    seen: set[tuple[int, ...]] = set()
    for first in sorted(pieces, key=lambda each: len(each.floating)):
        known = [0 if dim in first.floating else index for dim, index in enumerate(first.origin)]
        if tuple(known) in seen:
            continue
        seen.add(tuple(known))
        box = tuple([(low, low + length) for low, length in zip(known, lay.shape, strict=True)])
        valid, terms, floating = Region(), Region(), frozenset(range(len(known)))
        for piece in pieces:
            if piece.fits(known):
                floating &= piece.floating
                valid.add(piece.moved(piece.box, known))
                for each in piece.terms:
                    terms.add(piece.moved(each, known))
        base = lay.address - sum(low * step for low, step in zip(known, lay.strides, strict=True))
        held = terms if item.sums else None
        together = Holding(item, base, lay.strides, lay.itemsize, floating, valid, held, first.holding.by)
        reach: list[Reach] = [
            (None if dim in floating and length < item.shape[dim] else low, length)
            for dim, (low, length) in enumerate(zip(known, lay.shape, strict=True))
        ]
        found.append(Found(tuple(reach), box, together, [box]))
    return found


def _pieces(memory: Memory, item: Item, lay: Lay, apart: bool) -> Iterator[_Piece]:
    everything = whole(item.sums.values())
    for ancestor, path in item.family():
        for holding in memory.by_item.get(ancestor, ()):
            if holding.lay.low >= lay.high or holding.lay.high <= lay.low or holding.itemsize != lay.itemsize:
                continue
            for valid in holding.valid.boxes:
                here = holding.lay_of(valid)
                lattice = Lattice(here.address, here.strides, valid, holding.floating)
                held = views_of(lattice, path, lay if apart else None)
                for part in [one for each in held for one in (fitting(each, lay) if apart else [each])]:
                    origin = origin_of(part, lay)
                    if origin is None:
                        continue
                    terms: list[Box] = []
                    if holding.terms is not None:
                        backed = item.back([part.box], ancestor)
                        terms = forth(path, holding.terms.within([(*box, *everything) for box in backed]))
                    yield _Piece(origin, part.box, terms, part.floating, holding)


def forth(path: Sequence[View], boxes: Sequence[Box]) -> list[Box]:
    """Elements, and terms of them, as those of a view of a view … of theirs."""
    found = list(boxes)
    for view in path:
        count = len(view.before)
        found = [(*made, *box[count:]) for box in found for made in view.forth(box[:count])]
    return found


# -- from a view back to what it is a view of ------------------------------------------------------------


def rooted(item: Item, lay: Lay, box: Box) -> tuple[Item, Lay, Box]:
    """The same memory as part of what `item` is a view of, as far up as that can be said."""
    for ancestor, path in reversed(item.family()[1:]):
        if len(path) == 1:
            above = _above(path[0], lay, box)
            if above is not None and _is_seen(item, path[0], above, lay, box):
                return ancestor, *above
    return item, lay, box


def _is_seen(item: Item, view: View, above: tuple[Lay, Box], lay: Lay, box: Box) -> bool:
    """Whether a part of a view is found again where its operand is held to lie, and together with the other parts.

    So a dim of which it has one index counts, too: with its stride the others will follow.
    """
    held, part = above
    seen = viewed(view, Lattice(held.address, held.strides, part, frozenset()))
    return (
        seen is not None
        and (seen.start, seen.box) == (lay.address, box)
        and all(n == 1 or mine == step for n, mine, step in zip(item.shape, seen.strides, lay.strides, strict=True))
    )


def _above(view: View, lay: Lay, box: Box) -> tuple[Lay, Box] | None:
    """A part of a view as one of its operand; None where it is none, or holds elements several times."""
    boxes = view.back([box])
    known = {factor for factors in view.before for factor in factors}
    new = [factor for factors in view.after for factor in factors if factor not in known]
    if len(boxes) != 1 or any(view.sizes[factor] != 1 for factor in new):
        return None
    steps, alone = by_factor(view.after, lay.strides, lay.shape, view.sizes)
    strides = []
    for factors in view.before:
        step = together(factors, steps, view.sizes, alone)
        # A single index of a minor factor, under several of a major one, leaves gaps.
        gaps = len(factors) > 1 and any(factor in alone and view.sizes[factor] > 1 for factor in factors[1:])
        if step is None or gaps:
            return None
        strides.append(step)
    lengths = tuple([high - low for low, high in boxes[0]])
    return Lay(lay.address, lengths, tuple(strides), lay.itemsize), boxes[0]
