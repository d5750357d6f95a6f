"""Lemmas: what carrying out a few steps has done to memory, to be done again where the case is the same.

A layer does what the one before it did, to other values at other addresses. The first time its steps are proved one by
one; what has become of the holdings is noted in the numbers of their case (`cases`). Where the same case comes again,
the proof would come out the same, number by number, so that its outcome is enough. What fails is no lemma: it is
told step by step, by the step that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphir.backends.proof.boxes import Box, Region
from graphir.backends.proof.cases import Case, Classes, UnfitError
from graphir.backends.proof.doers import Done
from graphir.backends.proof.kept import Kept
from graphir.backends.proof.lays import Spans
from graphir.backends.proof.memory import Holding, Journal, Lost
from graphir.backends.proof.steps import Steps

#: Who wrote last, of a holding of which that is still who it was before.
_SAME = -1


class _Change(NamedTuple):
    """What has become of a holding, or of one that is new, as `Case.state` says it, and by which of the steps."""

    state: tuple[Any, ...]
    by: int


_GONE = _Change((), _SAME)


@dataclass(frozen=True)
class Lemma:
    """The outcome of a case.

    reads, ranges   how many have been proved
    changes         of each holding what has become of it: None if nothing has
    made            new holdings
    lost            the losses: by which of the steps, of which items, which boxes
    alike           factors along which terms are all alike, of items of which more are known than before
    kept            what is kept anew: which item, of which of the steps' nodes, of which items
    feet            ranges of addresses, with their districts, where the case's arrays lie, and its holdings ever have
    homes           of values that are written and lie in several districts, how far these have to be from each other
    """

    reads: int
    ranges: int
    changes: tuple[_Change | None, ...]
    made: tuple[_Change, ...]
    lost: tuple[tuple[int, int, Box], ...]
    alike: tuple[tuple[int, frozenset[str]], ...]
    kept: tuple[tuple[int, int, tuple[tuple[int, int], ...] | None], ...]
    feet: tuple[tuple[int, int, int], ...]
    homes: tuple[tuple[int, frozenset[int]], ...]

    def fits(self, case: Case) -> bool:
        """Whether what is of different districts will lie apart all the time, so that nothing compares it."""
        feet = sorted([(case.bases[own] + low, case.bases[own] + high, own) for low, high, own in self.feet])
        return _are_apart(feet, 0) and all(
            _are_apart([each for each in feet if each[2] in districts], width + 1) for width, districts in self.homes
        )


def _are_apart(feet: Sequence[tuple[int, int, int]], gap: int) -> bool:
    """Whether at least so many bytes are between ranges, which are in order, of different districts."""
    reach, last = -gap, -1
    for low, high, district in feet:
        if low - reach < gap and district != last:
            return False
        if high > reach:
            reach, last = high, district
    return True


class Lemmas:
    """Carries out steps, by a lemma where there is one.

    With `again`, what a lemma speaks of is proved all the same, and has to have the same outcome: else AssertionError.
    """

    def __init__(self, steps: Steps, kept: Kept, again: bool = False) -> None:
        self._steps, self._kept, self._again, self._classes = steps, kept, again, Classes(steps)
        self._known: dict[object, Lemma] = {}

    def carry_out(self, dones: Sequence[Done], prove: Callable[[Done], None]) -> None:
        """A thread's steps of one task: `prove` carries out one that no lemma speaks of."""
        try:
            case = Case(dones, self._steps, self._kept, self._classes)
        except UnfitError:
            for done in dones:
                prove(done)
            return
        lemma = self._known.get(case.key)
        if lemma is not None and not lemma.fits(case):
            lemma = None
        if lemma is not None and not self._again:
            _apply(lemma, case)
            return
        before = _Before(case)
        case.memory.journal = Journal()
        for done in dones:
            prove(done)
        found = before.outcome(case.memory.journal)
        case.memory.journal = None
        if lemma is not None and found != lemma:
            raise AssertionError(f"a case has come out otherwise than its lemma says: {lemma}, {found}")
        if found is not None and found.fits(case):
            self._known[case.key] = found


class _Before:
    """A case as it is before its steps are carried out, to be compared with what they leave."""

    def __init__(self, case: Case) -> None:
        self._case, counts = case, case.contents.counts
        self._reads, self._ranges = counts.reads, counts.ranges
        self._own = case.districts[len(case.lays) :]
        self._states = self._now()
        self._by = [holding.by for holding in case.holdings]
        self._alike = [frozenset(case.steps.alike.get(item, ())) for item in case.items]
        self._steps = {id(done.doer): number for number, done in enumerate(case.dones)}
        self._full = {item: list(case.memory.by_item.get(item, ())) for item in case.items}
        self._feet = [
            (lay.low - case.bases[district], lay.high - case.bases[district], district)
            for lay, district in zip(
                [*case.lays, *(holding.lay for holding in case.holdings)], case.districts, strict=True
            )
        ]

    def _now(self) -> list[tuple[Any, ...]]:
        pairs = zip(self._case.holdings, self._own, strict=True)
        return [self._case.state(holding, district) for holding, district in pairs]

    def outcome(self, journal: Journal) -> Lemma | None:
        """What the steps have done; None if that is not to be said in the case's numbers."""
        case, counts = self._case, self._case.contents.counts
        # Which nodes have been placed nowhere is counted by their names.
        if any(node.name in counts.unplaced for done in case.dones for node in done.step.nodes):
            return None
        written = Spans([(low, high) for low, high, _ in case.spans])
        try:
            if not all(written.has(low, high) for low, high in journal.overwritten):
                return None
            return Lemma(
                counts.reads - self._reads,
                counts.ranges - self._ranges,
                tuple(self._changes()),
                tuple(self._made()),
                tuple(self._lost(journal)),
                tuple(self._found_alike()),
                tuple(self._found_kept()),
                _merged([*self._feet, *self._placed(journal)]),
                tuple(self._homes()),
            )
        except (KeyError, UnfitError):
            # Of an item, or by somebody, that is not of the case.
            return None

    def _changes(self) -> list[_Change | None]:
        found: list[_Change | None] = []
        for holding, before, state, by in zip(self._case.holdings, self._states, self._now(), self._by, strict=True):
            if holding.slot < 0:
                found.append(_GONE)
            elif state == before and holding.by is by:
                found.append(None)
            else:
                found.append(_Change(state, _SAME if holding.by is by else self._steps[id(holding.by)]))
        return found

    def _made(self) -> list[_Change]:
        case, found = self._case, []
        for item, before in self._full.items():
            for holding in case.memory.by_item.get(item, ()):
                if holding not in before:
                    district = case.district(item, holding.lay.low, holding.lay.high)
                    found.append(_Change(case.state(holding, district), self._steps[id(holding.by)]))
        return found

    def _lost(self, journal: Journal) -> list[tuple[int, int, Box]]:
        """What each step takes away; of whom it takes first does not matter."""
        return sorted([(self._steps[id(lost.by)], self._case.numbers[item], lost.box) for item, lost in journal.lost])

    def _placed(self, journal: Journal) -> list[tuple[int, int, int]]:
        case, found = self._case, []
        for item, low, high in journal.placed:
            district = case.district(item, low, high)
            found.append((low - case.bases[district], high - case.bases[district], district))
        return found

    def _homes(self) -> Iterator[tuple[int, frozenset[int]]]:
        for width, ranges in self._case.homes.values():
            districts = frozenset(district for _, _, district in ranges)
            if len(districts) > 1:
                yield width, districts

    def _found_alike(self) -> list[tuple[int, frozenset[str]]]:
        case = self._case
        now = [frozenset(case.steps.alike.get(item, ())) for item in case.items]
        return [(number, new) for number, (new, old) in enumerate(zip(now, self._alike, strict=True)) if new != old]

    def _found_kept(self) -> list[tuple[int, int, tuple[tuple[int, int], ...] | None]]:
        case, found = self._case, []
        nodes = {id(done.step.nodes[0]): number for number, done in enumerate(case.dones) if done.step.nodes}
        for item, before in case.keeps.items():
            now = case.kept.made_of.get(item)
            if now is not None and now is not before:
                node, of = now
                operands = None if of is None else tuple([(at, case.numbers[each]) for at, each in of.items()])
                found.append((case.numbers[item], nodes[id(node)], operands))
        return found


def _apply(lemma: Lemma, case: Case) -> None:
    """Does to memory what the steps of the case would."""
    memory, counts, dones = case.memory, case.contents.counts, case.dones
    counts.steps += len(dones)
    counts.reads += lemma.reads
    counts.ranges += lemma.ranges
    for by, number, box in lemma.lost:
        memory.lose(case.items[number], Lost(box, dones[by].doer))
    for holding, change in zip(case.holdings, lemma.changes, strict=True):
        if change == _GONE:
            memory.drop(holding)
        elif change is not None:
            _become(holding, change.state, case, holding.by if change.by == _SAME else dones[change.by].doer)
            memory.place(holding)
    for state, by in lemma.made:
        number, district, base, strides, itemsize, floating, bounds, valid, terms = state
        held, start = None if terms is None else Region(terms), case.bases[district] + base
        made = Holding(case.items[number], start, strides, itemsize, floating, Region(valid), held, dones[by].doer)
        made.settle_in(bounds)
        memory.add(made)
    for number, factors in lemma.alike:
        case.steps.alike[case.items[number]] = set(factors)
    for number, at, operands in lemma.kept:
        of = None if operands is None else {place: case.items[each] for place, each in operands}
        case.kept.made_of[case.items[number]] = dones[at].step.nodes[0], of
    for root, count in case.reads.items():
        memory.wanted[root] -= count


def _become(holding: Holding, state: Sequence[Any], case: Case, by: object) -> None:
    _, district, base, strides, _, _, bounds, valid, terms = state
    holding.base, holding.strides, holding.by = case.bases[district] + base, strides, by
    holding.valid.boxes = list(valid)
    if holding.terms is not None:
        holding.terms.boxes = list(terms)
    holding.settle_in(bounds)


def _merged(feet: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Ranges of the same district as few as there need to be."""
    found: list[list[int]] = []
    for low, high, district in sorted(feet, key=lambda each: (each[2], each[0])):
        if found and found[-1][2] == district and low <= found[-1][1]:
            found[-1][1] = max(found[-1][1], high)
        else:
            found.append([low, high, district])
    return tuple([(low, high, district) for low, high, district in found])
