"""Cases: what the proof of a few steps depends on, in numbers, so that it is the same for steps that are alike.

A case is made of a thread's steps of one task between two meetings. Its key says everything that carrying them out
looks at, with items, arrays and holdings numbered as they come:

    steps       nodes, as their rules, factors and operators; which items and arrays their operands and results are;
                what is written beside; what is kept from tile to tile
    items       shapes, dtypes, terms, halves, and what they are views of; whether they will be read when this is over
    arrays      shapes, strides, and where they lie
    holdings    all of every item that is read or written and of what it is a view of; and whoever holds a byte between
                the first and the last of what is written: strides, indices, terms, and where they lie

Where things lie is counted from the first array of their *district*: what overlaps is of one district, and so is what
is of one value that is written, or of its views, and lies near (`is_near`), so that all within it lies to each other as
it did. Across districts nothing overlaps, or is joined, neither before nor, as a lemma sees to (`Lemma.fits`), at any
time while the steps are carried out; and what does neither is not compared.

What is not put into numbers makes no case: empty arrays, an array of another dtype than its value, memory that has been
cleared for a sum, and steps that name nothing of the graph. Those are proved step by step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from graphir.backends.proof.contents import dtype_fits
from graphir.backends.proof.doers import Done
from graphir.backends.proof.items import Item, Work
from graphir.backends.proof.kept import Kept
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.memory import Holding
from graphir.backends.proof.steps import Steps
from graphir.backends.trace import COMPUTE, Array, Step
from graphir.ir.graph import Node


class UnfitError(Exception):
    """Steps that make no case."""


class Classes:
    """What of items and nodes does not change while a program is proved, as a number that those alike share."""

    def __init__(self, steps: Steps) -> None:
        self._ledger = steps.ledger
        self._numbers: dict[object, int] = {}
        self._known: dict[object, int] = {}

    def of_item(self, item: Item) -> int:
        """Equal for items of which the graph says the same, but for which others they are views of."""
        found = self._known.get(item)
        if found is None:
            maker, view = self._ledger.makers.get(item), item.view
            said = (
                item.shape,
                item.value.dtype,
                tuple(item.terms.items()),
                tuple(item.beyond.items()),
                item.spared,
                None if view is None else (view.before, view.after, tuple(view.sizes.items())),
                None if maker is None else maker.operator.reduction,
            )
            found = self._known[item] = self._numbers.setdefault(said, len(self._numbers))
        return found

    def of_work(self, work: Work) -> int:
        """Equal for nodes of one operator, rule, and sizes."""
        found = self._known.get(work)
        if found is None:
            said = (
                work.operator,
                work.rule,
                tuple(work.sizes.items()),
                tuple(work.starts.items()),
                work.depends,
            )
            found = self._known[work] = self._numbers.setdefault(said, len(self._numbers))
        return found


class Case:
    """A few steps, and what their proof depends on; UnfitError if that is not to be said in numbers.

    key         equal for cases of which the same can be proved in the same way
    items       in the order of their numbers
    holdings    those that the steps may look at
    districts   of each array, then each holding, the number of its district
    homes       of each root of values that are written, by its number: how far from each other its parts are near, and
                where they lie, as ranges of addresses with their districts
    bases       where each district is counted from
    reads       how often values are read, by what they are views of
    spans       what is written, as ranges of addresses, each with the number of its first array
    """

    def __init__(self, dones: Sequence[Done], steps: Steps, kept: Kept, classes: Classes) -> None:
        self.dones, self.steps, self.kept, self._classes = dones, steps, kept, classes
        self.contents = steps.contents
        self.memory = steps.contents.memory
        self.items: list[Item] = []
        self.lays: list[Lay] = []
        self.holdings: list[Holding] = []
        self.reads: Counter[Item] = Counter()
        self.numbers: dict[Item, int] = {}
        #: What is kept, and how it has been made when the steps begin.
        self.keeps: dict[Item, object] = {}
        self._places: dict[Lay, int] = {}
        self._nodes: dict[Node, int] = {}
        self._said: dict[Node, tuple[Work, object]] = {}
        #: Arrays of values that are written, by their numbers, and those of what they are views of in the end.
        self._parts: dict[tuple[int, int], None] = {}
        self._written: dict[int, None] = {}
        self.homes: dict[int, tuple[int, list[tuple[int, int, int]]]] = {}
        self.spans: list[list[int]] = []
        words = tuple([self._words(done) for done in dones])
        self._find_holdings()
        self._find_districts()
        self.key: object = (
            words,
            tuple([self._item_words(item) for item in self.items]),
            tuple([self.making(item) for item in self.keeps]),
            tuple(
                [
                    (lay.cut, district, lay.address - self.bases[district])
                    for lay, district in zip(self.lays, self.districts, strict=False)
                ]
            ),
            tuple([self.state(each, self.districts[len(self.lays) + i]) for i, each in enumerate(self.holdings)]),
        )

    # -- steps ----------------------------------------------------------------------------------------

    def _words(self, done: Done) -> object:
        step = done.step
        beside = tuple([self._place(lay) for lay in done.deeds.scratch.values()])
        self._written.update(dict.fromkeys(beside))
        if step.kind != COMPUTE:
            item = None if step.value is None else self.steps.ledger.find(step.value, step.within)
            if item is None or len(step.results) != 1 or len(step.operands) > 1:
                raise UnfitError
            number = self._number(item)
            self.reads[item.root] += 1
            read = [self._array(item, array) for arrays in step.operands for array in arrays]
            made = [self._array(item, array, True) for array in step.results[0]]
            return step.kind, number, tuple(read), tuple(made), beside, self._kept_words(done)
        found: list[object] = []
        places = step.places or (None,) * len(step.nodes)
        for node, operands, results, place in zip(step.nodes, step.operands, step.results, places, strict=True):
            work, said = self._work(node, step)
            if len(operands) != len(work.inputs) or len(results) != len(work.outputs):
                raise UnfitError
            for item in work.inputs:
                self.reads[item.root] += 1
            found.append(said)
            found += [self._array(item, array) for item, array in zip(work.inputs, operands, strict=True)]
            found += [self._array(item, array, True) for item, array in zip(work.outputs, results, strict=True)]
            found.append(None if place is None else tuple([place.start(factor) for factor in work.rule.factors]))
        return step.kind, tuple(found), beside, self._kept_words(done)

    def _work(self, node: Node, step: Step) -> tuple[Work, object]:
        known = self._said.get(node)
        if known is None:
            work = self.steps.ledger.find_work(node, step.within)
            if work is None:
                raise UnfitError
            items = tuple([self._number(item) for item in (*work.inputs, *work.outputs)])
            number = self._nodes.setdefault(node, len(self._nodes))
            known = self._said[node] = work, (number, self._classes.of_work(work), items)
        return known

    def _kept_words(self, done: Done) -> object:
        """What a step reads or writes of what its node keeps, and of what it makes what it writes beside."""
        kept = self.kept.places.get(done.owner)
        if not kept:
            if done.deeds.outside:
                raise UnfitError
            return None
        found: list[object] = []
        read = done.deeds.outside.values()
        for lay, item in kept:
            if lay.key not in done.deeds.scratch and not any(lay.contains(each) for each in read):
                continue
            place, number = self._place(lay), self._number(item)
            self._parts[place, number] = None
            found.append((place, number))
            self.keeps[item] = self.kept.made_of.get(item)
        if not found:
            if read:
                raise UnfitError
            return None
        made = {lay.key for lay, _ in kept}
        told = [
            tuple([None if lay is None else self._place(lay) for lay in done.deeds.sources[key]])
            for key in done.deeds.scratch
            if key in made
        ]
        outside = tuple([self._place(lay) for lay in read])
        return tuple(found), outside, tuple(told)

    def making(self, item: Item) -> tuple[int, tuple[tuple[int, int], ...] | None] | None:
        """Who has made what is kept, and of what: nodes and items of the case by their numbers, others not at all."""
        made = self.kept.made_of.get(item)
        if made is None:
            return None
        node, operands = made
        of = None if operands is None else tuple([(at, self.numbers.get(each, -1)) for at, each in operands.items()])
        return self._nodes.get(node, -1), of

    # -- items and arrays -----------------------------------------------------------------------------

    def _number(self, item: Item) -> int:
        number = self.numbers.get(item)
        if number is None:
            if item.cleared_for is not None:
                raise UnfitError
            number = self.numbers[item] = len(self.items)
            self.items.append(item)
            if item.view is not None:
                self._number(item.view.operand)
        return number

    def _item_words(self, item: Item) -> object:
        operand = None if item.view is None else self.numbers[item.view.operand]
        alike = self.steps.alike.get(item)
        # How often it is read later does not matter; whether it is, and when it is read for the last time, does.
        wanted = 0 if item.view is not None else min(self.memory.wanted[item], self.reads[item] + 1)
        return self._classes.of_item(item), operand, None if alike is None else frozenset(alike), wanted

    def _place(self, lay: Lay) -> int:
        number = self._places.get(lay)
        if number is None:
            if not lay.size:
                raise UnfitError
            number = self._places[lay] = len(self.lays)
            self.lays.append(lay)
        return number

    def _array(self, item: Item, array: Array | None, written: bool = False) -> int:
        if array is None:
            return -1
        if not dtype_fits(item, array):
            raise UnfitError
        known = self.contents.lays.known.get(id(array))
        place = self._place(self.contents.lays.of(array) if known is None else known[1])
        if written:
            self._written[place] = None
            self._parts[place, self.numbers[item.root]] = None
        return place

    # -- memory ---------------------------------------------------------------------------------------

    def _find_holdings(self) -> None:
        by_item = self.memory.by_item
        self.holdings = [holding for item in self.items for holding in by_item.get(item, ())]
        # Whoever else holds what is written. In which order does not matter, as long as it is the same again.
        lows = sorted([(self.lays[place].low, self.lays[place].high, place) for place in self._written])
        spans = self.spans
        for low, high, place in lows:
            if spans and low < spans[-1][1]:
                spans[-1][1], spans[-1][2] = max(spans[-1][1], high), min(spans[-1][2], place)
            else:
                spans.append([low, high, place])
        others: dict[Holding, tuple[int, ...]] = {}
        for low, high, place in spans:
            for holding in self.memory.between(low, high):
                if not self.memory.wanted[holding.item.root] and holding.item not in self.numbers:
                    # Of a value that nobody reads any more; it would be gone with the first byte of it.
                    self.memory.drop(holding)
                elif holding.item not in self.numbers and holding not in others:
                    others[holding] = place, holding.lay.low - low, holding.lay.high - low
        for holding in sorted(others, key=others.__getitem__):
            self._number(holding.item)
            self.holdings.append(holding)

    def _find_districts(self) -> None:
        members = [*self.lays, *(holding.lay for holding in self.holdings)]
        above = list(range(len(members)))

        def top(member: int) -> int:
            while above[member] != member:
                above[member] = member = above[above[member]]
            return member

        def unite(one: int, other: int) -> None:
            one, other = top(one), top(other)
            above[max(one, other)] = min(one, other)

        reach, last = -1, -1
        for low, high, member in sorted([(lay.low, lay.high, member) for member, lay in enumerate(members)]):
            if low <= reach:
                unite(member, last)
            if high > reach:
                reach, last = high, member
        parts: dict[int, list[int]] = {}
        for member, root in self._parts:
            parts.setdefault(root, []).append(member)
        for member, holding in enumerate(self.holdings, len(self.lays)):
            root = self.numbers[holding.item.root]
            if root in parts:
                parts[root].append(member)
        widths = {root: self._width(root, [members[each] for each in found]) for root, found in parts.items()}
        for root, found in parts.items():
            reach, last = -1, -1
            for low, high, member in sorted([(members[each].low, members[each].high, each) for each in found]):
                if last >= 0 and low - reach <= widths[root]:
                    unite(member, last)
                if high > reach:
                    reach, last = high, member
        names: dict[int, int] = {}
        self.districts = [names.setdefault(top(member), len(names)) for member in range(len(members))]
        self.bases = [members[member].address for member in names]
        for root, found in parts.items():
            ranges = [(members[each].low, members[each].high, self.districts[each]) for each in found]
            self.homes[root] = widths[root], ranges

    def _width(self, root: int, lays: Sequence[Lay]) -> int:
        """How wide the widest of a root and its views is."""
        family = [math.prod(item.shape) for item in self.items if self.numbers[item.root] == root]
        return max(family) * max(lay.itemsize for lay in lays)

    def district(self, item: Item, low: int, high: int) -> int:
        """Of which district bytes of a value are that is written; UnfitError if that is not clear."""
        home = self.homes.get(self.numbers.get(item.root, -1))
        found = set[int]() if home is None else {own for start, stop, own in home[1] if start < high and low < stop}
        if len(found) != 1:
            raise UnfitError
        return found.pop()

    def state(self, holding: Holding, district: int) -> tuple[object, ...]:
        """All that is known of a holding, counted from its district's base."""
        return (
            self.numbers[holding.item],
            district,
            holding.base - self.bases[district],
            holding.strides,
            holding.itemsize,
            holding.floating,
            holding.bounds,
            tuple(holding.valid.boxes),
            None if holding.terms is None else tuple(holding.terms.boxes),
        )
