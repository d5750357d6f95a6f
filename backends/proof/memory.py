"""What lies in memory: for each value where its elements are, as they were last written.

A *holding* says: the element of `item` at these indices lies at `base` + Σ index · stride, for all indices of a region.
Writing takes the bytes away from whoever held them: exactly where both lie alike, else at least what was touched.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphir.backends.proof.boxes import Box, Region, common, whole
from graphir.backends.proof.items import Item
from graphir.backends.proof.lays import Lay, nested
from graphir.backends.proof.losses import lost_of

#: Of each value, how many losses are remembered, to be told where one of them is missed.
_REMEMBERED = 8


@dataclass(eq=False)
class Holding:
    """Elements of a value.

    valid      the indices of the elements that are there
    terms      of a sum, over its dims and then what it sums over, the terms that are in; None of all else
    floating   dims along which all elements are the same: indices there count from anywhere
    by         who wrote last
    """

    item: Item
    base: int
    strides: tuple[int, ...]
    itemsize: int
    floating: frozenset[int]
    valid: Region
    terms: Region | None
    by: object
    slot: int = -1
    lay: Lay = field(init=False)

    def __post_init__(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Looks anew at where the elements lie."""
        self.settle_in(self.valid.bounds() if self.item.shape else ())

    def settle_in(self, bounds: Box) -> None:
        """Takes note of where elements lie that are within these indices."""
        self.bounds, self.lay = bounds, self.lay_of(bounds)

    def lay_of(self, box: Box) -> Lay:
        """Where the elements of a box lie."""
        start = self.base + sum(low * step for (low, _), step in zip(box, self.strides, strict=True))
        return Lay(start, tuple([high - low for low, high in box]), self.strides, self.itemsize)

    def remove(self, box: Box) -> None:
        """Elements that are no longer there."""
        self.valid.remove(box)
        if self.terms is not None:
            self.terms.remove((*box, *whole(self.item.sums.values())))


@dataclass(frozen=True)
class Lost:
    """Elements of a value that were there until `by` wrote over them."""

    box: Box
    by: object


@dataclass
class Journal:
    """What has been done to memory: what was lost, the bytes that were written, and where holdings have lain."""

    lost: list[tuple[Item, Lost]] = field(default_factory=list)
    overwritten: list[tuple[int, int]] = field(default_factory=list)
    placed: list[tuple[Item, int, int]] = field(default_factory=list)


class Memory:
    """All holdings, by value and by address.

    `wanted` counts what is still to be read of each value and its views: what nobody reads need not be known.
    """

    def __init__(self) -> None:
        self.wanted: Counter[Item] = Counter()
        self.by_item: dict[Item, list[Holding]] = {}
        self.lost: dict[Item, deque[Lost]] = {}
        #: Where what is being done is written down, if somebody wants to know.
        self.journal: Journal | None = None
        self._slots: list[Holding | None] = []
        self._free: list[int] = []
        self._lows, self._highs = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def touching(self, lay: Lay) -> list[Holding]:
        """Who holds a byte between the lay's first and last."""
        return self.between(lay.low, lay.high)

    def between(self, low: int, high: int) -> list[Holding]:
        """Who holds a byte of this range of addresses."""
        count = len(self._slots)
        (found,) = ((self._lows[:count] < high) & (self._highs[:count] > low)).nonzero()
        if not len(found):
            return []
        slots = self._slots
        return [holding for slot in found.tolist() if (holding := slots[slot]) is not None]

    # -- writing --------------------------------------------------------------------------------------

    def lose(self, item: Item, lost: Lost) -> None:
        """Remembers what of a value is no longer there."""
        self.lost.setdefault(item, deque(maxlen=_REMEMBERED)).append(lost)
        if self.journal is not None:
            self.journal.lost.append((item, lost))

    def overwrite(self, lay: Lay, by: object) -> None:
        """Whatever lay there is lost."""
        if self.journal is not None:
            self.journal.overwritten.append((lay.low, lay.high))
        for holding in self.touching(lay):
            if not self.wanted[holding.item.root]:
                self.drop(holding)
                continue
            for box in lost_of(holding.lay, holding.bounds, lay):
                inner = common(box, holding.bounds)
                if inner is None:
                    continue
                self.lose(holding.item, Lost(inner, by))
                if inner == holding.bounds:
                    holding.valid = Region()
                    break
                holding.remove(inner)
            # Where elements have been lost is remembered as long as others are there: it is told who took them.
            if not holding.valid:
                self.drop(holding)

    def write(
        self, item: Item, lay: Lay, box: Box, terms: Sequence[Box] | None, floating: frozenset[int], by: object
    ) -> None:
        """The elements of `box` lie at `lay` from now on; of a sum, with these of its terms."""
        if lay.size == 0:
            return
        self.overwrite(lay, by)
        for holding in self.by_item.get(item, ()):
            if holding.floating == floating and is_near(holding, lay) and _join(holding, lay, box):
                holding.valid.add(box)
                for each in terms or ():
                    assert holding.terms is not None
                    holding.terms.add(each)
                holding.by = by
                holding.settle()
                self.place(holding)
                return
        base = lay.address - sum(low * step for (low, _), step in zip(box, lay.strides, strict=True))
        held = None if terms is None else Region(terms)
        self.add(Holding(item, base, lay.strides, lay.itemsize, floating, Region([box]), held, by))

    def add(self, holding: Holding) -> None:
        """Takes in a holding."""
        self.by_item.setdefault(holding.item, []).append(holding)
        self.place(holding)

    def place(self, holding: Holding) -> None:
        """Notes where a holding's elements lie now."""
        if self.journal is not None:
            self.journal.placed.append((holding.item, holding.lay.low, holding.lay.high))
        if holding.slot < 0:
            if self._free:
                holding.slot = self._free.pop()
                self._slots[holding.slot] = holding
            else:
                holding.slot = len(self._slots)
                self._slots.append(holding)
                if len(self._slots) > len(self._lows):
                    self._lows, self._highs = (np.concatenate((x, np.zeros_like(x))) for x in (self._lows, self._highs))
        self._lows[holding.slot], self._highs[holding.slot] = holding.lay.low, holding.lay.high

    def drop(self, holding: Holding) -> None:
        """Lets go of a holding, of which nothing is left, or wanted."""
        self._slots[holding.slot] = None
        self._lows[holding.slot] = self._highs[holding.slot] = 0
        self._free.append(holding.slot)
        holding.slot = -1
        self.by_item[holding.item].remove(holding)


def is_near(holding: Holding, lay: Lay) -> bool:
    """Whether they lie apart by no more than the value is wide: what lies farther away is other memory."""
    widest = math.prod(holding.item.shape) * holding.itemsize
    return lay.low - holding.lay.high <= widest and holding.lay.low - lay.high <= widest


def _join(holding: Holding, lay: Lay, box: Box) -> bool:
    """Whether a holding may take in a box that lies there; of a dim with one index only, the stride is free."""
    if lay.itemsize != holding.itemsize:
        return False
    strides, base = list(holding.strides), holding.base
    for dim, ((low, high), step) in enumerate(zip(box, lay.strides, strict=True)):
        first, last = holding.bounds[dim]
        if high - low > 1 and step != strides[dim]:
            if last - first > 1:
                return False
            base += first * (strides[dim] - step)
            strides[dim] = step
    off = lay.address - base - sum(low * step for (low, _), step in zip(box, strides, strict=True))
    if off:
        # It fits if one dim, of one index on either side, is given the stride that makes it fit.
        free = [
            dim
            for dim, ((low, high), (first, last)) in enumerate(zip(box, holding.bounds, strict=True))
            if high - low == last - first == 1 and low != first
        ]
        if len(free) != 1:
            return False
        (dim,) = free
        distance = box[dim][0] - holding.bounds[dim][0]
        step, rest = divmod(off, distance)
        # A stride as wide as the value itself leads to other memory.
        widest = math.prod(holding.item.shape) * lay.itemsize
        if rest or not 0 < step + strides[dim] < widest:
            return False
        base -= holding.bounds[dim][0] * step
        strides[dim] += step
    reach = [max(high, last) - min(low, first) for (low, high), (first, last) in zip(box, holding.bounds, strict=True)]
    # Indices that count from anywhere must not run on into other memory of the same value.
    if any(n > size for n, size in zip(reach, holding.item.shape, strict=True)):
        return False
    if not nested(tuple(strides), tuple(reach), lay.itemsize):
        return False
    holding.base, holding.strides = base, tuple(strides)
    return True
