"""Calls held to their step: they read what the step's operands show, and write its results, whole.

What a rule needs beside them is scratch memory, which the step writes before it reads it, or what its node has kept
since an earlier tile, or what nobody ever writes: constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from graphir.backends.effects import effects_of, flat
from graphir.backends.proof.lays import Lay, address_of, covers, is_array
from graphir.backends.trace import Call, Step


class Lays:
    """The lay of each array, looked at once."""

    def __init__(self) -> None:
        #: By an array's identity, itself and its lay.
        self.known: dict[int, tuple[Any, Lay]] = {}
        self._same: dict[object, Lay] = {}
        self._cuts: dict[object, int] = {}

    def of(self, array: Any) -> Lay:
        """The array's."""
        known = self.known.get(id(array))
        if known is None:
            key = address_of(array), array.shape, array.strides, array.itemsize
            lay = self._same.get(key)
            if lay is None:
                lay = self._same[key] = Lay(*key)
                lay.cut = self._cuts.setdefault(lay.cut, len(self._cuts))
            known = self.known[id(array)] = array, lay
        return known[1]

    def among(self, arguments: Iterable[Any]) -> list[Lay]:
        """Those of all arrays among a call's arguments that have an element."""
        found = []
        for each in flat(arguments):
            known = self.known.get(id(each))
            lay = known[1] if known is not None else self.of(each) if is_array(each) else None
            if lay is not None and lay.size:
                found.append(lay)
        return found


@dataclass
class Deeds:
    """What a step's calls touch.

    reads, writes   all of it, each once
    scratch         what is written beside the results
    outside         what is read that is neither an operand, nor a result, nor written by the step before
    sources         for each of scratch, what the calls that write it read; None where they are told more than arrays
    """

    reads: dict[Any, Lay] = field(default_factory=dict)
    writes: dict[Any, Lay] = field(default_factory=dict)
    scratch: dict[Any, Lay] = field(default_factory=dict)
    outside: dict[Any, Lay] = field(default_factory=dict)
    sources: dict[Any, list[Lay | None]] = field(default_factory=dict)


def hold(step: Step, calls: Sequence[Call], lays: Lays, fail: Callable[[str], NoReturn]) -> Deeds:
    """What the step's calls do; `fail` where that is not what the step says."""
    check = _StepCheck(lays.among(step.operands), lays.among(step.results), fail)
    check.keep_results_apart()
    for number in range(step.start, step.stop):
        function, arguments = calls[number]
        effects = effects_of(function, arguments)
        if effects is None:
            fail(
                f"it calls {_name(function)}, and nothing says which arguments that writes; declare it in "
                "graphir.backends.effects"
            )
        reads, writes = lays.among(effects.reads), lays.among(effects.writes)
        for lay in reads:
            check.read(function, lay, effects.spans)
        for lay in writes:
            check.write(function, lay, effects.spans, arguments, reads)
    check.end()
    if step.stop - step.start > 1:
        check.keep_operands_apart()
    return check.deeds


class _StepCheck:
    """What a step's calls have done so far, beside what they may read, its operands, and have to make, its results."""

    def __init__(self, operands: list[Lay], results: list[Lay], fail: Callable[[str], NoReturn]) -> None:
        self.deeds = Deeds()
        self._operands, self._results, self._fail = operands, results, fail
        self._written: list[Lay] = []
        self._shown, self._made = {lay.key for lay in operands}, set[object]()

    def keep_results_apart(self) -> None:
        """No two results lie in the same memory."""
        for one, lay in enumerate(self._results):
            for other in self._results[:one]:
                if lay is not other and lay.touches(other):
                    self._fail("two of its results lie in the same memory")

    def read(self, function: Any, lay: Lay, spans: bool) -> None:
        """A call reads an array: of what the step shows or has written, or else of what was there before."""
        if spans and _lies_within(lay, [*self._operands, *self._results, *self._written]):
            return
        self.deeds.reads[lay.key] = lay
        if lay.key in self._shown or lay.key in self._made:
            return
        if any(each.contains(lay) for each in self._operands) or covers(self._written, lay):
            return
        if any(each.touches(lay) for each in self._results):
            self._fail(f"{_name(function)} reads a part of its result that no call has written yet")
        self.deeds.outside[lay.key] = lay

    def write(self, function: Any, lay: Lay, spans: bool, arguments: Sequence[Any], reads: Sequence[Lay]) -> None:
        """A call with these arguments, of which it reads some, writes an array: a part of a result, or scratch."""
        if spans:
            inside = [each for each in self._results if (each.low, each.high) == (lay.low, lay.high)]
            if inside:
                self._written += inside
                self.deeds.writes.update((each.key, each) for each in inside)
                return
        self.deeds.writes[lay.key] = lay
        if lay.key in self._made:
            if lay.key in self.deeds.scratch:
                self.deeds.sources[lay.key] += _told(arguments, reads)
            return
        self._made.add(lay.key)
        self._written.append(lay)
        if any(each.contains(lay) for each in self._results):
            return
        if any(each.touches(lay) for each in (*self._operands, *self._results)):
            self._fail(f"{_name(function)} writes where an operand lies, or beyond its result")
        self.deeds.scratch[lay.key], self.deeds.sources[lay.key] = lay, _told(arguments, reads)

    def end(self) -> None:
        """Every result has been written, whole."""
        for lay in self._operands:
            self.deeds.reads.setdefault(lay.key, lay)
        for lay in self._results:
            if lay.key not in self._made and not covers(self._written, lay):
                self._fail("its calls do not write all of its result")

    def keep_operands_apart(self) -> None:
        """A result may lie where an operand does, element on element, and in no other way."""
        for result in self._results:
            for operand in self._operands:
                if result.form != operand.form and result.touches(operand):
                    self._fail("a result lies across an operand: what one call writes, the next would read")


def _told(arguments: Sequence[Any], reads: Sequence[Lay]) -> list[Lay | None]:
    return [*reads, *(None for each in arguments if not is_array(each))]


def _lies_within(lay: Lay, others: Sequence[Lay]) -> bool:
    """Whether it lies between the first and the last byte of one of the others."""
    return any(each.low <= lay.low and lay.high <= each.high for each in others)


def _name(function: Any) -> str:
    home = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None) or repr(function)
    return f"{home}.{name}" if home else str(name)
