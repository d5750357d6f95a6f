"""One step after the other: what it reads is there and whole, its ranges agree, and what it writes is noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from graphir.backends.proof.boxes import Box, Range, common, missing, spelled, whole
from graphir.backends.proof.calls import Lays
from graphir.backends.proof.finding import Found, Reach, find, rooted
from graphir.backends.proof.halves import lies_beyond, may_leave_out
from graphir.backends.proof.items import ZERO, Item, Ledger, Work, axes_of, split
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.memory import Memory, search
from graphir.backends.proof.trace import ADD, CLEAR, COMPUTE, COPY, MAXIMUM, Array, Step
from graphir.errors import ProofError
from graphir.ir.inference import Place


@dataclass(frozen=True, eq=False)
class Doer:
    """Who does something: a step of a thread, or an exchange."""

    where: str
    what: str
    line: str | None = None

    def __str__(self) -> str:
        return f"{self.what} ({self.where}{f', {self.line}' if self.line else ''})"

    def fail(self, text: str) -> NoReturn:
        """ProofError."""
        raise ProofError(f"{self}: {text}")


@dataclass
class Counts:
    """What has been proved."""

    steps: int = 0
    reads: int = 0
    ranges: int = 0
    calls: int = 0
    meetings: int = 0
    exchanges: int = 0
    #: Nodes of which nothing in memory says which part is made.
    unplaced: dict[str, None] = field(default_factory=dict)


#: How many there are of a dim that only what one kernel makes and reads itself has.
UNKNOWN = -1


@dataclass(frozen=True)
class _Unseen:
    """What one kernel makes and reads itself, without storing it."""

    reach: tuple[Reach, ...]
    terms: Mapping[str, Range]


class Steps:
    """Carries out steps on a memory of what lies where."""

    def __init__(self, ledger: Ledger, memory: Memory, lays: Lays, counts: Counts) -> None:
        self.ledger, self.memory, self.lays, self.counts = ledger, memory, lays, counts
        #: Of a sum of equal terms, how many have been made of each part.
        self._made: dict[tuple[object, ...], int] = {}

    def carry_out(self, step: Step, doer: Doer) -> None:
        """ProofError where the step does not do what it says of what is there."""
        self.counts.steps += 1
        if step.kind == COMPUTE:
            self._compute(step, doer)
        elif step.kind == COPY:
            self._copy(step, doer)
        elif step.kind in (ADD, MAXIMUM):
            self._add(step, doer)
        elif step.kind == CLEAR:
            self._clear(step, doer)
        else:
            doer.fail(f"{step.kind!r} is no kind of step")

    def want(self, step: Step) -> None:
        """Notes beforehand what a step will read."""
        for item in self._read_by(step):
            self.memory.wanted[item.root] += 1

    def done(self, step: Step) -> None:
        """It has been read."""
        for item in self._read_by(step):
            self.memory.wanted[item.root] -= 1

    def _read_by(self, step: Step) -> list[Item]:
        if step.kind == COMPUTE:
            return [
                item
                for node in step.nodes
                if self.ledger.knows_node(node, step.within)
                for item in self.ledger.work(node, step.within).inputs
            ]
        if step.value is None or not self.ledger.knows(step.value, step.within):
            return []
        return [self.ledger.item(step.value, step.within)]

    # -- reading --------------------------------------------------------------------------------------

    def read(self, item: Item, array: Array, doer: Doer, partial: bool = False) -> Found | None:
        """What of `item` the array shows, all of it there, and whole unless `partial`; None of an empty one."""
        lay = self.lays.of(array)
        if lay.size == 0:
            return None
        self.counts.reads += 1
        name = item.name
        if len(lay.shape) != len(item.shape):
            doer.fail(f"{name} has {len(item.shape)} dims, what is read of it {len(lay.shape)}")
        places = find(self.memory, item, lay)
        for found in places:
            if not found.unwritten() and (partial or not found.lacking()):
                return found
        if not places:
            doer.fail(f"it reads {name} of shape {list(lay.shape)} where none of it lies; {self._there(item, lay)}")
        found = places[0]
        part = spelled(item.dims, tuple([(low or 0, (low or 0) + n) for low, n in found.reach]))
        root = found.holding.item
        unwritten = found.unwritten()
        if unwritten:
            doer.fail(
                f"it reads {name}{part}, of which {root.name}{spelled(root.dims, unwritten[0])} is not there: "
                f"{self._history(root, unwritten[0])}"
            )
        lacking = found.lacking()[0]
        count = len(root.shape)
        doer.fail(
            f"it reads {name}{part}, a sum that is not complete: {root.name}{spelled(root.dims, lacking[:count])} "
            f"lacks the terms {spelled(list(root.terms), lacking[count:])}; it was last written by {found.holding.by}"
        )

    def _history(self, item: Item, box: Box) -> str:
        for lost in reversed(self.memory.lost.get(item, ())):
            if common(lost.box, box) is not None:
                return f"{lost.by} has written over {spelled(item.dims, lost.box)}"
        return "it has not been written"

    def _there(self, item: Item, lay: Lay) -> str:
        others = [each for each in self.memory.touching(lay) if each.lay.touches(lay)]
        if others:
            each = others[0]
            held = f"{each.item.name}{spelled(each.item.dims, each.bounds)}, by {each.by}"
            return f"what lies there is {held}"
        for ancestor, _ in item.family():
            lost = self.memory.lost.get(ancestor)
            if lost:
                last = lost[-1]
                return f"{last.by} has written over {ancestor.name}{spelled(ancestor.dims, last.box)}"
        return "nothing has been written there"

    # -- writing --------------------------------------------------------------------------------------

    def write(
        self, item: Item, array: Array, reach: Sequence[Reach], terms: Sequence[Box] | None, doer: Doer
    ) -> None:
        """Notes that this part of `item` lies there; of a sum, `terms` are those that are in, over its dims, too."""
        lay = self.lays.of(array)
        if lay.size == 0:
            return
        if any(step == 0 and n > 1 for n, step in zip(lay.shape, lay.strides, strict=True)):
            doer.fail(f"it writes {item.name} to memory in which several of its elements are one")
        box = tuple([(low or 0, (low or 0) + n) for low, n in reach])
        floating = frozenset(dim for dim, (low, n) in enumerate(reach) if low is None and n < item.shape[dim])
        if not floating:
            root, rooted_lay, rooted_box = rooted(item, lay, box)
            if root is not item:
                if root.terms:
                    shape = whole(root.terms.values())
                    terms = [(*rooted_box, *shape)] if terms is None else self._rooted_terms(item, root, terms)
                self._settle(root, rooted_lay, rooted_box, terms, floating, doer)
                return
        else:
            box, lay = self._float(item, lay, box, floating), lay
        if terms is not None and not item.terms and item.view is not None and item.root.terms:
            doer.fail(f"{item.name} is copied to where it is no part of the sum that it shows, before that is complete")
        self._settle(item, lay, box, terms if item.terms else None, floating, doer)

    def _settle(
        self, item: Item, lay: Lay, box: Box, terms: Sequence[Box] | None, floating: frozenset[int], doer: Doer
    ) -> None:
        """Writes, and where memory has been cleared for the item says which part of it that is."""
        if terms is not None:
            for holding in [each for each in self.memory.touching(lay) if each.item.cleared_for is item]:
                around = _placed(holding.lay, lay, box)
                if around is not None and holding.valid.boxes == [holding.bounds]:
                    self.memory.write(item, holding.lay, around, [], floating, holding.by)
        self.memory.write(item, lay, box, terms, floating, doer)

    def _rooted_terms(self, item: Item, root: Item, terms: Sequence[Box]) -> list[Box]:
        found = list(terms)
        count = len(item.shape)
        while item is not root:
            view = item.view
            assert view is not None
            found = [(*back, *box[count:]) for box in found for back in view.back([box[:count]])]
            item = view.operand
            count = len(item.shape)
        return found

    def _float(self, item: Item, lay: Lay, box: Box, floating: frozenset[int]) -> Box:
        """Indices along dims where all elements are alike, as who holds them already counts."""
        for holding in self.memory.by_item.get(item, ()):
            if holding.floating != floating or holding.itemsize != lay.itemsize:
                continue
            if any(n > 1 and lay.strides[d] != holding.strides[d] for d, n in enumerate(lay.shape)):
                continue
            off = lay.address - holding.base
            off -= sum(low * holding.strides[d] for d, (low, _) in enumerate(box) if d not in floating)
            found = list(box)
            for dim in sorted(floating, key=lambda each: -holding.strides[each]):
                index = off // holding.strides[dim]
                off -= index * holding.strides[dim]
                found[dim] = index, index + lay.shape[dim]
            if off == 0:
                return tuple(found)
        return box

    # -- kinds of steps -------------------------------------------------------------------------------

    def _copy(self, step: Step, doer: Doer) -> None:
        item = self._valued(step, doer)
        source, target = step.operands[0][0], step.results[0][0]
        if source is None or target is None:
            doer.fail("a copy has an operand and a result")
        found = self.read(item, source, doer, partial=True)
        if found is None:
            return
        terms = None
        if found.holding.terms is not None:
            terms = self._as_seen(item, found)
        self.write(item, target, found.reach, terms, doer)

    def _as_seen(self, item: Item, found: Found) -> list[Box] | None:
        """The terms of what an array shows, over the item's own dims; None if it is whole."""
        if not found.lacking():
            return [(*found.boxes[0], *whole(item.terms.values()))] if item.terms else None
        root = found.holding.item
        count = len(root.shape)
        terms = found.terms()
        path = next(path for ancestor, path in item.family() if ancestor is root)
        for view in path:
            terms = [(*forth, *box[count:]) for box in terms for forth in view.forth(box[:count])]
            count = len(view.after)
        return terms

    def _add(self, step: Step, doer: Doer) -> None:
        item = self._valued(step, doer)
        arrays, target = step.operands[0], step.results[0][0]
        if len(arrays) != 2 or arrays[0] is None or arrays[1] is None or target is None:
            doer.fail("an addition has two terms and a result")
        one, other = (self.read(item, array, doer, partial=True) for array in arrays)
        if one is None or other is None:
            return
        if one.reach != other.reach:
            parts = " and ".join(f"{item.name}{_spelled_reach(item, each.reach)}" for each in (one, other))
            doer.fail(f"it adds different parts of a sum, {parts}")
        root = one.holding.item
        if root is not other.holding.item or one.holding.terms is None or other.holding.terms is None:
            doer.fail(f"{item.name} is no sum of several terms, so that nothing is to be added to it")
        maker = self.ledger.makers.get(root)
        if (maker is not None and maker.operator.reduction == "max") != (step.kind == MAXIMUM):
            doer.fail(f"{item.name} is the {maker.operator.reduction if maker else 'sum'} of its terms, which it forms otherwise")
        first, second = self._all_terms(item, one), self._all_terms(item, other)
        for a in first:
            for b in second:
                twice = common(a, b)
                if twice is not None and step.kind == ADD:
                    count = len(item.shape)
                    doer.fail(
                        f"it adds to {item.name}{spelled(item.dims, twice[:count])} the terms "
                        f"{spelled(list(root.terms), twice[count:])}, which are in it already"
                    )
        self.write(item, target, one.reach, [*first, *second], doer)

    def _all_terms(self, item: Item, found: Found) -> list[Box]:
        root = found.holding.item
        count = len(root.shape)
        terms = found.terms()
        path = next(path for ancestor, path in item.family() if ancestor is root)
        for view in path:
            terms = [(*forth, *box[count:]) for box in terms for forth in view.forth(box[:count])]
            count = len(view.after)
        return terms

    def _clear(self, step: Step, doer: Doer) -> None:
        item = self._valued(step, doer)
        target = step.results[0][0]
        if target is None:
            doer.fail("it clears nothing")
        lay = self.lays.of(target)
        if lay.size == 0:
            return
        reach = self._cleared(item, lay)
        root = item.root
        if reach is None and root is item and root.terms:
            # The first term that is put there says which part of the sum it is.
            kept = Item(f"memory cleared for {item.name}", item.value, lay.shape, cleared_for=item)
            self.memory.wanted[kept] = 1
            self.memory.write(kept, lay, whole(lay.shape), None, frozenset(), doer)
            return
        if reach is None:
            doer.fail(f"it clears memory of shape {list(lay.shape)}, and nothing says which part of {item.name} it is")
        if not root.terms:
            box = tuple([(low or 0, (low or 0) + n) for low, n in reach])
            zero = [half for half, what in item.beyond.items() if what == ZERO]
            if not any(lies_beyond(half, box) for half in zero):
                doer.fail(f"{item.name}{spelled(item.dims, box)} is no sum, and not known to be 0")
        self.write(item, target, reach, [], doer)

    def _cleared(self, item: Item, lay: Lay) -> tuple[Reach, ...] | None:
        """Which part of a sum is cleared: all of it, or what is known to lie there."""
        if lay.shape == item.shape:
            return tuple([(0, n) for n in lay.shape])
        found = find(self.memory, item, lay)
        return found[0].reach if found else None

    def _valued(self, step: Step, doer: Doer) -> Item:
        if step.value is None or not self.ledger.knows(step.value, step.within):
            doer.fail("it names no value of the graph")
        return self.ledger.item(step.value, step.within)

    # -- computing ------------------------------------------------------------------------------------

    def _compute(self, step: Step, doer: Doer) -> None:
        hidden: dict[Item, _Unseen] = {}
        places = step.places or (None,) * len(step.nodes)
        for node, operands, results, place in zip(step.nodes, step.operands, step.results, places, strict=True):
            if not self.ledger.knows_node(node, step.within):
                doer.fail(f"{node.name} is no node of the graph")
            work = self.ledger.work(node, step.within)
            ranges = self._ranges(work, operands, results, place, hidden, doer)
            self._need_whole(work, ranges, doer)
            for position, array in enumerate(results):
                self._make(work, position, array, ranges, hidden, doer)

    def _ranges(
        self,
        work: Work,
        operands: Sequence[Array | None],
        results: Sequence[Array | None],
        place: Place | None,
        hidden: Mapping[Item, _Unseen],
        doer: Doer,
    ) -> dict[str, Reach]:
        """The part that a node computes, as ranges of its factors, on which all that it touches has to agree."""
        ranges: dict[str, tuple[Reach, str]] = {}
        if len(operands) != len(work.inputs) or len(results) != len(work.outputs):
            doer.fail(f"{work.node.name} has {len(work.inputs)} operands and {len(work.outputs)} results")
        for position, (item, array) in enumerate(zip(work.inputs, operands, strict=True)):
            reach = self._reach(work, position, item, array, hidden, doer)
            name = work.rule.inputs[position].name
            for factors, each in zip(axes_of(work.rule.inputs[position]), reach, strict=True):
                self._agree(work, factors, each, f"{name} = {item.name}", ranges, doer)
        for position, (item, array) in enumerate(zip(work.outputs, results, strict=True)):
            if array is not None:
                lengths: list[Reach] = [(None, n) for n in array.shape]
                name = work.rule.outputs[position].name
                if len(lengths) != len(item.shape):
                    doer.fail(f"{item.name} has {len(item.shape)} dims, what is written of it {len(lengths)}")
                for factors, each in zip(axes_of(work.rule.outputs[position]), lengths, strict=True):
                    self._agree(work, factors, each, f"{name} = {item.name}", ranges, doer)
        found = {name: reach for name, (reach, _) in ranges.items()}
        if place is not None:
            self._hold_place(work, place, found, doer)
        for name, (low, length) in found.items():
            if low is None and length == work.sizes[name]:
                found[name] = 0, length
        return found

    def _reach(
        self,
        work: Work,
        position: int,
        item: Item,
        array: Array | None,
        hidden: Mapping[Item, _Unseen],
        doer: Doer,
    ) -> Sequence[Reach]:
        if array is None:
            for ancestor, path in item.family():
                if ancestor in hidden:
                    _need_complete(ancestor, hidden[ancestor], doer)
                    return _seen_through(path, hidden[ancestor], doer, item)
            doer.fail(f"{item.name} has no memory, and is not made by the same kernel")
        if tuple(array.shape) and self.lays.of(array).size == 0:
            return [(None, n) for n in array.shape]
        if work.operator.shape_only and not find(self.memory, item, self.lays.of(array)):
            return [(None, n) for n in array.shape]
        if str(array.dtype) != item.value.dtype and item.value.dtype != "text":
            doer.fail(f"{item.name} is {item.value.dtype}, what is read of it {array.dtype}")
        found = self.read(item, array, doer)
        return [(None, n) for n in array.shape] if found is None else found.reach

    def _agree(
        self,
        work: Work,
        factors: Sequence[str],
        reach: Reach,
        what: str,
        ranges: dict[str, tuple[Reach, str]],
        doer: Doer,
    ) -> None:
        """Takes in that a dim made of `factors` is read, or written, in this range."""
        low, length = reach
        if len(factors) == 1:
            parts: list[tuple[str, Reach]] = [(factors[0], reach)]
        elif not factors:
            return
        elif length == UNKNOWN:
            parts = [(name, (None, UNKNOWN)) for name in factors]
        elif low is None:
            parts = self._unsplit(work, factors, length, ranges)
        else:
            boxes = split((low, low + length), factors, work.sizes)
            if len(boxes) != 1:
                doer.fail(f"{what} is cut at {low}:{low + length}, in the middle of {' and '.join(factors)}")
            parts = [(name, (a, b - a)) for name, (a, b) in zip(factors, boxes[0], strict=True)]
        for name, each in parts:
            before = ranges.get(name)
            if before is None:
                ranges[name] = each, what
                continue
            (start, count), who = before
            if UNKNOWN in (count, each[1]):
                known = max(count, each[1])
                (start, count), each = (start, known), (each[0], known)
                ranges[name] = (start, count), what
            differs = start is not None and each[0] is not None and start != each[0]
            if count != each[1] or differs:
                doer.fail(
                    f"{work.node.name} is computed of {_spelled_range(name, before[0])} in {who}, but of "
                    f"{_spelled_range(name, each)} in {what}"
                )
            if start is None:
                ranges[name] = each, what

    def _unsplit(
        self, work: Work, factors: Sequence[str], length: int, ranges: Mapping[str, tuple[Reach, str]]
    ) -> list[tuple[str, Reach]]:
        """A range of so many along a dim of several factors, of which some are known."""
        parts: list[tuple[str, Reach]] = []
        rest = length
        for name in reversed(factors[1:]):
            known = ranges[name][0] if name in ranges else (None, min(work.sizes[name], rest) if rest else 0)
            parts.append((name, known))
            rest = rest // known[1] if known[1] else 0
        known = ranges[factors[0]][0] if factors[0] in ranges else (None, rest)
        return [*parts, (factors[0], (known[0], rest))]

    def _hold_place(self, work: Work, place: Place, ranges: dict[str, Reach], doer: Doer) -> None:
        """What a kernel is told of where its part lies is where it lies."""
        for name in work.rule.factors:
            low, length = ranges.get(name, (None, UNKNOWN))
            told = place.start(name) - work.starts.get(name, 0)
            if low is None:
                ranges[name] = told, length
            elif told != low:
                doer.fail(f"{work.node.name} is told that {name} begins at {told} here, and it begins at {low}")

    def _need_whole(self, work: Work, ranges: Mapping[str, Reach], doer: Doer) -> None:
        """Factors that a node mixes are whole, but for what is masked or 0 and changes nothing."""
        spans: dict[str, Range | None] = {
            name: None if low is None else (low, low + length) for name, (low, length) in ranges.items()
        }
        for name in work.rule.whole_factors:
            span, size = spans.get(name), work.sizes[name]
            if name not in ranges or ranges[name] == (0, size):
                continue
            rest = [(0, size)] if span is None else [(0, span[0]), (span[1], size)]
            for part in rest:
                if part[0] < part[1] and (span is None or not may_leave_out(work, name, part, spans)):
                    doer.fail(
                        f"{work.node.name} needs all of {name}, {size}, and reads {_spelled_range(name, ranges[name])}"
                    )

    def _make(
        self,
        work: Work,
        position: int,
        array: Array | None,
        ranges: Mapping[str, Reach],
        hidden: dict[Item, _Unseen],
        doer: Doer,
    ) -> None:
        """Notes what a node has made."""
        item = work.outputs[position]
        reach = [_joined(factors, ranges, work, doer) for factors in axes_of(work.rule.outputs[position])]
        spans: dict[str, Range] = {}
        for name, size in item.terms.items():
            low, length = ranges[name]
            if low is None:
                # Terms that are all alike are counted.
                key = (item, name, tuple(reach))
                low = self._made.get(key, 0)
                self._made[key] = low + length
            spans[name] = low, low + length
            if spans[name] != (0, size) and work.operator.reduction == "mean":
                doer.fail(f"{item.name} is a mean over {name}, and is made of {_spelled_range(name, ranges[name])} alone")
        if array is None:
            hidden[item] = _Unseen(tuple(reach), spans)
            return
        if str(array.dtype) != item.value.dtype and item.value.dtype != "text":
            doer.fail(f"{item.name} is {item.value.dtype}, what is written of it {array.dtype}")
        self.counts.ranges += 1
        box = tuple([(low or 0, (low or 0) + n) for low, n in reach])
        terms = [(*box, *spans.values())] if item.terms else None
        hidden[item] = _Unseen(tuple(reach), spans)
        if any(low is None and n < size for (low, n), size in zip(reach, item.shape, strict=True)):
            if "at" in work.operator.keywords or work.operator.random:
                self.counts.unplaced[work.node.name] = None
        self.write(item, array, reach, terms, doer)


def _joined(factors: Sequence[str], ranges: Mapping[str, Reach], work: Work, doer: Doer) -> Reach:
    """The range of a dim of a result made of these factors."""
    if len(factors) == 1:
        return ranges.get(factors[0], (None, UNKNOWN))
    low: int | None = 0
    length = 1
    for name in factors:
        start, count = ranges.get(name, (None, UNKNOWN))
        if count == UNKNOWN:
            return None, UNKNOWN
        low = None if low is None or start is None else low * work.sizes[name] + start
        if length > 1 and count != work.sizes[name]:
            doer.fail(f"{work.node.name} makes no range of ({' '.join(factors)}): {name} is {_spelled_range(name, (start, count))}")
        length *= count
    return low, length


def _placed(cleared: Lay, lay: Lay, box: Box) -> Box | None:
    """Which indices cleared memory has, a part of which lies at `lay` and has those of `box`."""
    shapes = zip(cleared.shape, lay.shape, cleared.strides, lay.strides, strict=True)
    if any(n > 1 and m > 1 and step != other for n, m, step, other in shapes):
        return None
    dims = [
        (step if n > 1 else other, dim, m)
        for dim, (n, m, step, other) in enumerate(zip(cleared.shape, lay.shape, cleared.strides, lay.strides, strict=True))
        if n > 1 or m > 1
    ]
    found: dict[int, int] = {}
    if not search(sorted(dims, reverse=True), cleared.address - lay.address, cleared.shape, found):
        return None
    starts = [low + found.get(dim, 0) for dim, (low, _) in enumerate(box)]
    return tuple([(low, low + n) for low, n in zip(starts, cleared.shape, strict=True)])


def _need_complete(item: Item, made: _Unseen, doer: Doer) -> None:
    """What a kernel reads of its own sums is complete."""
    if not item.terms:
        return
    box = [(low or 0, (low or 0) + n) for low, n in made.reach]
    rest = missing([(*box, *whole(item.terms.values()))], [(*box, *made.terms.values())])
    for each in rest:
        if not any(lies_beyond(half, each) for half in item.spared):
            count = len(item.shape)
            doer.fail(
                f"it reads {item.name}{spelled(item.dims, each[:count])}, which it has not made whole: it lacks the "
                f"terms {spelled(list(item.terms), each[count:])}"
            )


def _seen_through(path: Sequence[object], made: _Unseen, doer: Doer, item: Item) -> list[Reach]:
    from graphir.backends.proof.items import View

    reach = list(made.reach)
    if path and any(n == UNKNOWN for _, n in reach):
        return [(None, UNKNOWN)] * len(item.shape)
    for view in path:
        assert isinstance(view, View)
        boxes = view.forth(tuple([(low or 0, (low or 0) + n) for low, n in reach]))
        if len(boxes) != 1:
            doer.fail(f"{item.name} is no range of what the same kernel makes")
        reach = [(low, high - low) for low, high in boxes[0]]
    return reach


def _spelled_range(name: str, reach: Reach) -> str:
    low, length = reach
    return f"{length} of {name}" if low is None else f"{name} {low}:{low + length}"


def _spelled_reach(item: Item, reach: Sequence[Reach]) -> str:
    return spelled(item.dims, tuple([(low or 0, (low or 0) + n) for low, n in reach]))
