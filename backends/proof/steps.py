"""One step after the other: what it reads is there and whole, its ranges agree, and what it writes is noted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from graphir.backends.proof.boxes import Box, Range, Region, common, cut_alike, missing, spelled, whole
from graphir.backends.proof.contents import Contents, shifted, spelled_reach
from graphir.backends.proof.doers import Doer
from graphir.backends.proof.finding import Found, Reach, find, forth
from graphir.backends.proof.halves import lies_beyond
from graphir.backends.proof.items import ZERO, Item, Ledger, View, Work, split
from graphir.backends.proof.ranges import UNKNOWN, Ranges
from graphir.backends.trace import ADD, CLEAR, COMPUTE, COPY, MAXIMUM, Array, Step


class _Made(NamedTuple):
    """What a kernel has made, of which terms, and may read itself without storing it."""

    reach: tuple[Reach, ...]
    terms: Mapping[str, Range]


class Steps:
    """Carries out steps on the contents of memory."""

    def __init__(self, ledger: Ledger, contents: Contents) -> None:
        self.ledger, self.contents = ledger, contents
        #: Of sums, the factors along which terms are all alike, so that it is enough to count them.
        self.alike: dict[Item, set[str]] = {}

    def read_by(self, step: Step) -> list[Item]:
        """The values that a step reads."""
        if step.kind == COMPUTE:
            works = [self.ledger.find_work(node, step.within) for node in step.nodes]
            return [item for work in works if work is not None for item in work.inputs]
        item = None if step.value is None else self.ledger.find(step.value, step.within)
        return [] if item is None else [item]

    def carry_out(self, step: Step, doer: Doer) -> None:
        """ProofError where the step does not do what it says with what is there."""
        self.contents.counts.steps += 1
        if step.kind == COMPUTE:
            self._compute(step, doer)
            return
        item = None if step.value is None else self.ledger.find(step.value, step.within)
        if item is None:
            doer.fail("it names no value of the graph")
        (operands,), (results,) = step.operands or ((),), step.results
        if len(results) != 1 or results[0] is None:
            doer.fail("it has no result")
        if step.kind == COPY:
            self._copy(item, operands, results[0], doer)
        elif step.kind in (ADD, MAXIMUM):
            self._add(step.kind, item, operands, results[0], doer)
        elif step.kind == CLEAR:
            self._clear(item, results[0], doer)
        else:
            doer.fail(f"{step.kind!r} is no kind of step")

    # -- computing ------------------------------------------------------------------------------------

    def _compute(self, step: Step, doer: Doer) -> None:
        made: dict[Item, _Made] = {}
        places = step.places or (None,) * len(step.nodes)
        for node, operands, results, place in zip(step.nodes, step.operands, step.results, places, strict=True):
            work = self.ledger.find_work(node, step.within)
            if work is None:
                doer.fail(f"{node.name} is no node of the graph")
            if len(operands) != len(work.inputs) or len(results) != len(work.outputs):
                doer.fail(f"{node.name} has {len(work.inputs)} operands and {len(work.outputs)} results")
            ranges = Ranges(work, doer)
            for operand, item, array in zip(work.rule.inputs, work.inputs, operands, strict=True):
                ranges.agree(operand, self._part(work, item, array, made, doer), item.name)
            for result, item, array in zip(work.rule.outputs, work.outputs, results, strict=True):
                if array is not None:
                    if len(array.shape) != len(item.shape):
                        doer.fail(f"{item.name} has {len(item.shape)} dims, what is written of it {len(array.shape)}")
                    ranges.agree(result, [(None, length) for length in array.shape], item.name)
            if place is not None:
                ranges.place(place)
            ranges.settle()
            for position, array in enumerate(results):
                self._make(work, position, array, ranges, made, doer)

    def _part(
        self, work: Work, item: Item, array: Array | None, made: Mapping[Item, _Made], doer: Doer
    ) -> Sequence[Reach]:
        """The part of an operand that is read."""
        if array is None:
            for ancestor, path in item.family():
                if ancestor in made:
                    _require_complete(ancestor, made[ancestor], doer)
                    return _seen_through(path, made[ancestor], item, doer)
            doer.fail(f"{item.name} has no memory, and is not made by the same kernel")
        lengths: list[Reach] = [(None, length) for length in array.shape]
        if work.operator.shape_only and not find(self.contents.memory, item, self.contents.lays.of(array)):
            return lengths
        found = self.contents.read(item, array, doer)
        return lengths if found is None else found.reach

    def _make(
        self,
        work: Work,
        position: int,
        array: Array | None,
        ranges: Ranges,
        made: dict[Item, _Made],
        doer: Doer,
    ) -> None:
        """Notes what a node has made."""
        item, reach = work.outputs[position], ranges.of(work.rule.outputs[position])
        spans: dict[str, Range] = {}
        for factor, size in item.terms.items():
            low, length = ranges[factor]
            if low is None:
                low = 0
                self.alike.setdefault(item, set()).add(factor)
            spans[factor] = low, low + length
            if spans[factor] != (0, size) and work.operator.reduction == "mean":
                doer.fail(f"{item.name} is a mean, and is made of {ranges.spelled(factor)} alone")
        made[item] = _Made(tuple(reach), spans)
        if array is None:
            return
        self.contents.counts.ranges += 1
        floats = any(low is None and n < size for (low, n), size in zip(reach, item.shape, strict=True))
        if floats and ("at" in work.operator.keywords or work.operator.random):
            self.contents.counts.unplaced[work.node.name] = None
        box = tuple([(low or 0, (low or 0) + n) for low, n in reach])
        self.contents.write(item, array, reach, [(*box, *spans.values())] if item.terms else None, doer)

    # -- moving and adding ----------------------------------------------------------------------------

    def _copy(self, item: Item, operands: Sequence[Array | None], target: Array, doer: Doer) -> None:
        if len(operands) != 1 or operands[0] is None:
            doer.fail("a copy has one operand")
        found = self.contents.read(item, operands[0], doer, partial=True)
        if found is not None:
            terms = _terms(item, found) if found.lacking else None
            self.contents.write(item, target, found.reach, terms, doer)

    def _add(self, kind: str, item: Item, operands: Sequence[Array | None], target: Array, doer: Doer) -> None:
        if len(operands) != 2 or operands[0] is None or operands[1] is None:
            doer.fail("an addition has two operands")
        one, other = (self.contents.read(item, array, doer, partial=True) for array in operands)
        if one is None or other is None:
            return
        if one.reach != other.reach:
            parts = " and ".join(item.name + spelled_reach(item, each.reach) for each in (one, other))
            doer.fail(f"it adds different parts of a sum, {parts}")
        root = item.root
        if one.holding.terms is None or other.holding.terms is None:
            doer.fail(f"{item.name} is no sum of several terms, so that nothing is to be added to it")
        maker = self.ledger.makers[root]
        if (maker.operator.reduction == "max") != (kind == MAXIMUM):
            doer.fail(f"{item.name} is the {maker.operator.reduction} of its terms, and it forms another")
        first, second = _terms(item, one), _terms(item, other)
        if root in self.alike:
            first, second = _counted(root, self.alike[root], first, second)
        twice = None
        if first and second and common(Region(first).bounds(), Region(second).bounds()) is not None:
            twice = next((both for a in first for b in second if (both := common(a, b)) is not None), None)
        if twice is not None and kind == ADD:
            count = len(item.shape)
            doer.fail(
                f"it adds to {item.name}{spelled(item.dims, twice[:count])} the terms "
                f"{spelled(root.term_names, twice[count:])}, which are in it already"
            )
        self.contents.write(item, target, one.reach, [*first, *second], doer)

    def _clear(self, item: Item, target: Array, doer: Doer) -> None:
        lay = self.contents.lays.of(target)
        reach: Sequence[Reach] | None = None
        if lay.shape == item.shape:
            reach = [(0, size) for size in item.shape]
        elif places := find(self.contents.memory, item, lay):
            reach = places[0].reach
        elif item.terms:
            self.contents.clear(item, lay, doer)
            return
        if reach is None:
            doer.fail(f"it clears memory of shape {list(lay.shape)}, and nothing says which part of {item.name} it is")
        box = tuple([(low or 0, (low or 0) + n) for low, n in reach])
        zero = [half for half, what in item.beyond.items() if what == ZERO]
        if not item.root.terms and not any(lies_beyond(half, box) for half in zero):
            doer.fail(f"{item.name}{spelled(item.dims, box)} is no sum, and not known to be 0")
        self.contents.write(item, target, reach, [] if item.root.terms else None, doer)


def _terms(item: Item, found: Found) -> list[Box]:
    """The terms that are in what an array shows, over the item's own dims."""
    path = next(path for ancestor, path in item.family() if ancestor is found.holding.item)
    terms = forth(path, found.terms())
    # Where all elements are alike, they are counted from 0 here.
    origin = tuple([(first or 0, (first or 0) + length) for first, length in found.reach])
    return [shifted(box, found.box, origin) for box in terms]


def _counted(item: Item, alike: Set[str], first: Sequence[Box], second: Sequence[Box]) -> tuple[list[Box], list[Box]]:
    """Terms with those that are alike numbered one after the other: the second ones behind the first."""
    names = list(item.terms)
    ahead = len(first[0]) - len(names) if first else len(second[0]) - len(names) if second else 0
    places = [ahead + position for position, name in enumerate(names) if name in alike]
    factors = [name for name in names if name in alike]
    most = math.prod(item.terms[name] for name in factors)

    def apart(boxes: Sequence[Box]) -> list[Box]:
        return [tuple([each for place, each in enumerate(box) if place not in places]) for box in boxes]

    # What is counted together: parts that each box has whole, or nothing of.
    parts = cut_alike(apart([*first, *second]))
    counts = dict.fromkeys(parts, 0)

    def number(boxes: Sequence[Box]) -> list[Box]:
        found: list[Box] = []
        added = dict.fromkeys(parts, 0)
        for box, rest in zip(boxes, apart(boxes), strict=True):
            size = math.prod(box[place][1] - box[place][0] for place in places)
            for part in parts:
                added[part] += size if common(part, rest) is not None else 0
        for rest, size in added.items():
            start = counts[rest]
            counts[rest] = start + size
            # More than there are begin anew, and are in twice.
            ranges = [(start, min(start + size, most)), (0, max(start + size - most, 0))]
            pieces = (each for low, high in ranges if low < high for each in split((low, high), factors, item.terms))
            for part in pieces:
                numbered = list(rest)
                for place, piece in zip(places, part, strict=True):
                    numbered.insert(place, piece)
                found.append(tuple(numbered))
        return found

    return number(first), number(second)


def _require_complete(item: Item, made: _Made, doer: Doer) -> None:
    """What a kernel reads of its own sums is complete."""
    if not item.terms:
        return
    box = [(low or 0, (low or 0) + n) for low, n in made.reach]
    count = len(item.shape)
    for each in missing([(*box, *whole(item.terms.values()))], [(*box, *made.terms.values())]):
        if not any(lies_beyond(half, each) for half in item.spared):
            doer.fail(
                f"it reads {item.name}{spelled(item.dims, each[:count])}, a sum that it has not completed: it lacks "
                f"the terms {spelled(item.term_names, each[count:])}"
            )


def _seen_through(path: Sequence[View], made: _Made, item: Item, doer: Doer) -> Sequence[Reach]:
    """The part of a view that a kernel reads of what it has made."""
    reach = made.reach
    if path and any(length == UNKNOWN for _, length in reach):
        return [(None, UNKNOWN)] * len(item.shape)
    for view in path:
        boxes = view.forth(tuple([(low or 0, (low or 0) + n) for low, n in reach]))
        if len(boxes) != 1:
            doer.fail(f"{item.name} is no range of what the same kernel makes")
        reach = tuple([(low, high - low) for low, high in boxes[0]])
    return reach
