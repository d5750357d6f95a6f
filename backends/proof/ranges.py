"""The part of a node that a step computes: ranges of its factors, on which all that it reads and writes must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphir.backends.proof.boxes import Range
from graphir.backends.proof.doers import Doer
from graphir.backends.proof.finding import Reach
from graphir.backends.proof.halves import may_leave_out
from graphir.backends.proof.items import Work, axes_of, split
from graphir.ir.inference import Place
from graphir.ir.signature import Operand

#: How many there are along a dim of what one kernel makes and reads itself, if nothing else says it.
UNKNOWN = -1


class Ranges:
    """A node's ranges, by factor, as they become known from one operand after the other."""

    def __init__(self, work: Work, doer: Doer) -> None:
        self.work, self._doer = work, doer
        self._known: dict[str, tuple[Reach, str]] = {}

    def __getitem__(self, factor: str) -> Reach:
        known = self._known.get(factor)
        return (None, UNKNOWN) if known is None else known[0]

    def agree(self, operand: Operand, reach: Sequence[Reach], item: str) -> None:
        """Takes in that this part of an operand, or a result, is read or written."""
        what = f"{operand.name} = {item}"
        for factors, each in zip(axes_of(operand), reach, strict=True):
            for factor, part in self._parts(factors, each, what):
                self._take(factor, part, what)

    def _parts(self, factors: Sequence[str], reach: Reach, what: str) -> Sequence[tuple[str, Reach]]:
        """A dim's range as ranges of the factors that it is made of."""
        low, length = reach
        if len(factors) == 1:
            return [(factors[0], reach)]
        if not factors:
            return []
        if length == UNKNOWN:
            return [(factor, (None, UNKNOWN)) for factor in factors]
        if low is None:
            return self._unplaced(factors, length)
        boxes = split((low, low + length), factors, self.work.sizes)
        if len(boxes) != 1:
            self._doer.fail(f"{what} is cut at {low}:{low + length}, in the middle of {' and '.join(factors)}")
        return [(factor, (start, stop - start)) for factor, (start, stop) in zip(factors, boxes[0], strict=True)]

    def _unplaced(self, factors: Sequence[str], length: int) -> Sequence[tuple[str, Reach]]:
        """The factors of a dim of which it is known how many of it there are."""
        parts: list[tuple[str, Reach]] = []
        for factor in reversed(factors[1:]):
            start, count = self[factor]
            count = min(self.work.sizes[factor], length) if count == UNKNOWN else count
            parts.append((factor, (start, count)))
            length = length // count if count else 0
        return [*parts, (factors[0], (self[factors[0]][0], length))]

    def _take(self, factor: str, reach: Reach, what: str) -> None:
        if factor not in self._known:
            self._known[factor] = reach, what
            return
        (start, count), who = self._known[factor]
        low, length = reach
        differ = start is not None and low is not None and start != low
        if differ or (count != length and UNKNOWN not in (count, length)):
            self._doer.fail(
                f"{self.work.node.name} is computed of {self._spelled(factor, (start, count))} in {who}, but of "
                f"{self._spelled(factor, reach)} in {what}"
            )
        if start is None or count == UNKNOWN:
            self._known[factor] = (low if start is None else start, max(count, length)), what

    def place(self, place: Place) -> None:
        """What the node's kernel is told of where its part lies is where it lies."""
        for factor in self.work.rule.factors:
            low, length = self[factor]
            told = place.start(factor) - self.work.starts.get(factor, 0)
            if low is None:
                self._known[factor] = (told, length), "at"
            elif told != low:
                self._doer.fail(
                    f"{self.work.node.name} is told that {self._spelled(factor, (told, length))} is computed, and it "
                    f"is {self._spelled(factor, (low, length))}"
                )

    def settle(self) -> None:
        """What is all of a factor begins at its beginning; what a node mixes is whole, or changes nothing."""
        for factor, ((low, length), what) in self._known.items():
            if low is None and length == self.work.sizes[factor]:
                self._known[factor] = (0, length), what
        for factor in self.work.rule.whole_factors:
            if factor in self._known and self[factor] != (0, self.work.sizes[factor]):
                self._require_whole(factor)

    def _require_whole(self, factor: str) -> None:
        """Factors that a node mixes are whole, but for what is masked, or 0, and changes nothing."""
        size, span = self.work.sizes[factor], self._span(factor)
        rest = [(0, size)] if span is None else [(0, span[0]), (span[1], size)]
        spans: Mapping[str, Range | None] = {each: self._span(each) for each in self._known}
        for part in rest:
            if part[0] < part[1] and (span is None or not may_leave_out(self.work, factor, part, spans)):
                self._doer.fail(
                    f"{self.work.node.name} needs all of {self._spelled(factor, (0, size))}, and reads "
                    f"{self._spelled(factor, self[factor])}"
                )

    def _span(self, factor: str) -> Range | None:
        low, length = self[factor]
        return None if low is None else (low, low + length)

    def of(self, result: Operand) -> list[Reach]:
        """The part of a result that is made."""
        return [self._joined(factors) for factors in axes_of(result)]

    def _joined(self, factors: Sequence[str]) -> Reach:
        """The range of a dim made of several factors."""
        if len(factors) == 1:
            return self[factors[0]]
        low: int | None = 0
        length = 1
        for factor in factors:
            start, count = self[factor]
            if count == UNKNOWN:
                return None, UNKNOWN
            if length > 1 and count != self.work.sizes[factor]:
                self._doer.fail(
                    f"{self.work.node.name} makes no range of ({' '.join(factors)}): of {factor} it makes "
                    f"{self._spelled(factor, (start, count))}"
                )
            low = None if low is None or start is None else low * self.work.sizes[factor] + start
            length *= count
        return low, length

    def spelled(self, factor: str) -> str:
        """A factor's range in words, `S 0:8`."""
        return self._spelled(factor, self[factor])

    def _spelled(self, factor: str, reach: Reach) -> str:
        low, length = reach
        name = self.work.spell(factor)
        if length == UNKNOWN:
            return name if low is None else f"{name} from {low} on"
        return f"{length} of {name}" if low is None else f"{name} {low}:{low + length}"
