"""Lemmas: what carrying out a few steps has done to memory, to be done again where the case is the same.

A layer does what the one before it did, to other values at other addresses. The first time its steps are proved one by
one; what has become of the holdings is noted in the numbers of their case (`cases`). Where the same case comes again,
the proof would come out the same, number by number, so that its outcome is enough. What fails is no lemma: it is
told step by step, by the step that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphir.backends.proof.boxes import Box, Region
from graphir.backends.proof.cases import Case, Classes, UnfitError
from graphir.backends.proof.doers import Done
from graphir.backends.proof.kept import Kept
from graphir.backends.proof.lays import Spans
from graphir.backends.proof.memory import Holding, Journal, Lost
from graphir.backends.proof.steps import Steps

#: Whether cases that a lemma speaks of are proved step by step all the same, with the same outcome; so in the tests.
CHECK = False
#: Who wrote last, of a holding of which that is still who it was before.
_SAME = -1


class _Change(NamedTuple):
    """What has become of a holding, or of one that is new, as `Case.state` says it, and by which of the steps."""

    state: tuple[Any, ...]
    by: int


@dataclass(frozen=True)
class Lemma:
    """The outcome of a case.

    reads, ranges   how many have been proved
    changes         of each holding what has become of it: None if nothing has, () if it is gone
    made            new holdings
    lost            the losses: of which items, which boxes, by which of the steps
    alike           factors along which terms are all alike, of items of which more are known than before
    kept            what is kept anew: which item, of which of the steps' nodes, of which items
    feet            ranges of addresses, with their districts, where the case's arrays lie, and its holdings ever have
    """

    reads: int
    ranges: int
    changes: tuple[_Change | tuple[()] | None, ...]
    made: tuple[_Change, ...]
    lost: tuple[tuple[int, Box, int], ...]
    alike: tuple[tuple[int, frozenset[str]], ...]
    kept: tuple[tuple[int, int, tuple[tuple[int, int], ...] | None], ...]
    feet: tuple[tuple[int, int, int], ...]

    def fits(self, case: Case) -> bool:
        """Whether what is of different districts will lie apart all the time, so that nothing compares it."""
        reach = district = -1
        for low, high, own in sorted(
            [(case.bases[own] + low, case.bases[own] + high, own) for low, high, own in self.feet]
        ):
            if low < reach and own != district:
                return False
            if high > reach:
                reach, district = high, own
        return True


class Lemmas:
    """Carries out steps, by a lemma where there is one."""

    def __init__(self, steps: Steps, kept: Kept) -> None:
        self._steps, self._kept, self._classes = steps, kept, Classes(steps)
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
        if lemma is not None and not CHECK:
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
        self._states = [self._state(holding) for holding in case.holdings]
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

    def _state(self, holding: Holding) -> tuple[Any, ...]:
        return self._case.state(holding, self._case.homes[self._case.numbers[holding.item.root]])

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
                tuple([(case.numbers[item], lost.box, self._steps[id(lost.by)]) for item, lost in journal.lost]),
                tuple(self._found_alike()),
                tuple(self._found_kept()),
                _merged([*self._feet, *self._placed(journal)]),
            )
        except KeyError:
            # Of an item, or by somebody, that is not of the case.
            return None

    def _changes(self) -> list[_Change | tuple[()] | None]:
        found: list[_Change | tuple[()] | None] = []
        for holding, before, by in zip(self._case.holdings, self._states, self._by, strict=True):
            state = self._state(holding)
            if holding.slot < 0:
                found.append(())
            elif state == before and holding.by is by:
                found.append(None)
            else:
                found.append(_Change(state, _SAME if holding.by is by else self._steps[id(holding.by)]))
        return found

    def _made(self) -> list[_Change]:
        return [
            _Change(self._state(holding), self._steps[id(holding.by)])
            for item, before in self._full.items()
            for holding in self._case.memory.by_item.get(item, ())
            if holding not in before
        ]

    def _placed(self, journal: Journal) -> list[tuple[int, int, int]]:
        case, found = self._case, []
        for item, low, high in journal.placed:
            district = case.homes[case.numbers[item.root]]
            found.append((low - case.bases[district], high - case.bases[district], district))
        return found

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
    for number, box, by in lemma.lost:
        memory.lose(case.items[number], Lost(box, dones[by].doer))
    for holding, change in zip(case.holdings, lemma.changes, strict=True):
        if change == ():
            memory.drop(holding)
        elif change is not None:
            by = holding.by if change.by == _SAME else dones[change.by].doer
            _become(holding, change.state, case, by)
            memory.place(holding)
    for state, by in lemma.made:
        _, district, base, strides, itemsize, floating, _, valid, terms = state
        item = case.items[state[0]]
        held = None if terms is None else Region(terms)
        made = Holding(
            item, case.bases[district] + base, strides, itemsize, floating, Region(valid), held, dones[by].doer
        )
        _become(made, state, case, made.by)
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
    holding.bounds = bounds
    holding.lay = holding.lay_of(bounds)


def _merged(feet: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Ranges of the same district as few as there need to be."""
    found: list[list[int]] = []
    for low, high, district in sorted(feet, key=lambda each: (each[2], each[0])):
        if found and found[-1][2] == district and low <= found[-1][1]:
            found[-1][1] = max(found[-1][1], high)
        else:
            found.append([low, high, district])
    return tuple([(low, high, district) for low, high, district in found])
