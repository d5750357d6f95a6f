"""The values that lie in memory, read and written: what is read is there, and whole, or it is said what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from graphir.backends.proof.boxes import Box, common, spelled, whole
from graphir.backends.proof.calls import Lays
from graphir.backends.proof.doers import Counts, Doer
from graphir.backends.proof.finding import Found, Reach, find, rooted
from graphir.backends.proof.items import Item
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.losses import search
from graphir.backends.proof.memory import Memory, is_near
from graphir.backends.trace import Array


class Contents:
    """Reads and writes parts of values, for whoever does so."""

    def __init__(self, lays: Lays, counts: Counts) -> None:
        self.memory, self.lays, self.counts = Memory(), lays, counts
        #: Whether memory has ever been cleared for a sum before anything said for which part of it.
        self._has_cleared = False

    # -- reading --------------------------------------------------------------------------------------

    def read(self, item: Item, array: Array, doer: Doer, partial: bool = False) -> Found | None:
        """What of `item` the array shows, all of it there, and whole unless `partial`; None of an empty array."""
        lay = self.lays.of(array)
        if lay.size == 0:
            return None
        self.counts.reads += 1
        if len(lay.shape) != len(item.shape):
            doer.fail(f"{item.name} has {len(item.shape)} dims, what is read of it {len(lay.shape)}")
        self.hold_dtype(item, array, doer)
        places = find(self.memory, item, lay)
        fit = next((each for each in places if not each.unwritten and (partial or not each.lacking)), None)
        if fit is None:
            doer.fail(self._missing(item, places[0]) if places else self._nowhere(item, lay))
        return fit

    def hold_dtype(self, item: Item, array: Array, doer: Doer) -> None:
        """ProofError where an array is of another dtype than the value."""
        if not dtype_fits(item, array):
            doer.fail(f"{item.name} is {item.value.dtype}, the array for it {array.dtype}")

    def _missing(self, item: Item, found: Found) -> str:
        """What is missing of a value where it has been found."""
        part, root = f"{item.name}{spelled_reach(item, found.reach)}", found.holding.item
        unwritten = found.unwritten
        if unwritten:
            rest = f"{root.name}{spelled(root.dims, unwritten[0])}"
            return f"it reads {part}, of which {rest} is not there: {self._history(root, unwritten[0])}"
        root = root.root
        lacking, count = found.lacking[0], len(root.shape)
        return (
            f"it reads {part}, a sum that is not complete: {root.name}{spelled(root.dims, lacking[:count])} lacks the "
            f"terms {spelled(root.term_names, lacking[count:])}; it was last written by {found.holding.by}"
        )

    def _history(self, item: Item, box: Box) -> str:
        for lost in reversed(self.memory.lost.get(item, ())):
            if common(lost.box, box) is not None:
                return f"{lost.by} has written over {item.name}{spelled(item.dims, lost.box)}"
        return "it has not been written"

    def _nowhere(self, item: Item, lay: Lay) -> str:
        """What there is where nothing of a value is."""
        text = f"it reads {item.name} of shape {list(lay.shape)} where none of it lies in this layout; "
        for each in self.memory.touching(lay):
            if each.lay.touches(lay):
                return f"{text}what lies there is {each.item.name}{spelled(each.item.dims, each.bounds)}, by {each.by}"
        for ancestor, _ in item.family():
            lost = self.memory.lost.get(ancestor)
            if lost:
                return f"{text}{lost[-1].by} has written over {ancestor.name}{spelled(ancestor.dims, lost[-1].box)}"
        return f"{text}nothing has been written there"

    # -- writing --------------------------------------------------------------------------------------

    def write_block(self, item: Item, array: Array, doer: Doer) -> None:
        """All of `item` lies there."""
        self.write(item, array, [(0, size) for size in item.shape], None, doer)

    def write(self, item: Item, array: Array, reach: Sequence[Reach], terms: Sequence[Box] | None, doer: Doer) -> None:
        """This part of `item` lies there; of a sum `terms`, over its dims, too, are those that are in, None all."""
        lay = self.lays.of(array)
        if lay.size == 0:
            return
        self.hold_dtype(item, array, doer)
        if any(step == 0 and n > 1 for n, step in zip(lay.shape, lay.strides, strict=True)):
            doer.fail(f"it writes {item.name} to memory in which several of its elements are one")
        box = tuple([(low or 0, (low or 0) + n) for low, n in reach])
        floating = frozenset(dim for dim, (low, n) in enumerate(reach) if low is None and n < item.shape[dim])
        if floating:
            counted = self._float(item, lay, box, floating)
            if terms is not None:
                terms = [shifted(each, box, counted) for each in terms]
            box = counted
        root = item
        if not floating:
            root, lay, box = rooted(item, lay, box)
        if root is not item and terms is not None:
            terms = item.back(terms, root)
        if root.sums and terms is None:
            terms = [(*box, *whole(root.sums.values()))]
        terms = terms if root.sums else None
        if terms is not None and self._has_cleared:
            self._place_cleared(root, lay, box, floating)
        self.memory.write(root, lay, box, terms, floating, doer)

    def clear(self, item: Item, lay: Lay, doer: Doer) -> None:
        """Memory is 0 for a sum; the first term that is put there says which part of it that is."""
        self._has_cleared = True
        cleared = Item(f"memory cleared for {item.name}", item.value, lay.shape, cleared_for=item)
        self.memory.wanted[cleared] = 1
        self.memory.write(cleared, lay, whole(lay.shape), None, frozenset(), doer)

    def _place_cleared(self, item: Item, lay: Lay, box: Box, floating: frozenset[int]) -> None:
        for holding in [each for each in self.memory.touching(lay) if each.item.cleared_for is item]:
            around = _placed(holding.lay, lay, box)
            if around is not None and holding.valid.boxes == [holding.bounds]:
                self.memory.write(item, holding.lay, around, [], floating, holding.by)

    def _float(self, item: Item, lay: Lay, box: Box, floating: frozenset[int]) -> Box:
        """Indices along dims where all elements are alike, as who holds others of them already counts."""
        for holding in self.memory.by_item.get(item, ()):
            if holding.floating != floating or holding.itemsize != lay.itemsize or not is_near(holding, lay):
                continue
            if any(n > 1 and lay.strides[d] != holding.strides[d] for d, n in enumerate(lay.shape)):
                continue
            off = lay.address - holding.base
            off -= sum(low * holding.strides[d] for d, (low, _) in enumerate(box) if d not in floating)
            found = list(box)
            for dim in sorted(floating, key=lambda each: -holding.strides[each]):
                index = off // holding.strides[dim]
                first, last = holding.bounds[dim]
                if max(last, index + lay.shape[dim]) - min(first, index) > item.shape[dim]:
                    break
                off -= index * holding.strides[dim]
                found[dim] = index, index + lay.shape[dim]
            else:
                if off == 0:
                    return tuple(found)
        return box


#: A dtype's name, which NumPy makes up anew each time.
_dtype_name = cache(str)


def dtype_fits(item: Item, array: Array) -> bool:
    """Whether an array is of the value's dtype; text lies in arrays of any."""
    return _dtype_name(array.dtype) == item.value.dtype or item.value.dtype == "text"


def shifted(terms: Box, before: Box, after: Box) -> Box:
    """Terms over dims whose indices are counted from elsewhere."""
    count = len(before)
    moved = [
        (low + new - old, high + new - old)
        for (low, high), (old, _), (new, _) in zip(terms[:count], before, after, strict=True)
    ]
    return (*moved, *terms[count:])


def _placed(cleared: Lay, lay: Lay, box: Box) -> Box | None:
    """Which indices cleared memory has, a part of which lies at `lay` and has those of `box`."""
    dims = []
    for dim, (n, m) in enumerate(zip(cleared.shape, lay.shape, strict=True)):
        step, other = cleared.strides[dim], lay.strides[dim]
        if n > 1 and m > 1 and step != other:
            return None
        if n > 1 or m > 1:
            dims.append((step if n > 1 else other, dim, m))
    found: dict[int, int] = {}
    if not search(sorted(dims, reverse=True), cleared.address - lay.address, cleared.shape, found):
        return None
    starts = [low + found.get(dim, 0) for dim, (low, _) in enumerate(box)]
    return tuple([(low, low + n) for low, n in zip(starts, cleared.shape, strict=True)])


def spelled_reach(item: Item, reach: Sequence[Reach]) -> str:
    """A part of a value, `[B 0:2, S 5]`."""
    return spelled(item.dims, tuple([(low or 0, (low or 0) + n) for low, n in reach]))
