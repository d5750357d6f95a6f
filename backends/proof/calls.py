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
    deeds = Deeds()
    operands = lays.among(step.operands)
    results = lays.among(step.results)
    for one, lay in enumerate(results):
        for other in results[:one]:
            if lay is not other and lay.touches(other):
                fail("two of its results lie in the same memory")
    written: list[Lay] = []
    shown, made = {lay.key for lay in operands}, set[object]()
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
            if effects.spans and _lies_within(lay, [*operands, *results, *written]):
                continue
            deeds.reads[lay.key] = lay
            if (
                lay.key in shown
                or lay.key in made
                or any(each.contains(lay) for each in operands)
                or covers(written, lay)
            ):
                continue
            if any(each.touches(lay) for each in results):
                fail(f"{_name(function)} reads a part of its result that no call has written yet")
            deeds.outside[lay.key] = lay
        for lay in writes:
            if effects.spans:
                inside = [each for each in results if (each.low, each.high) == (lay.low, lay.high)]
                if inside:
                    written += inside
                    deeds.writes.update((each.key, each) for each in inside)
                    continue
            deeds.writes[lay.key] = lay
            if lay.key in made:
                if lay.key in deeds.scratch:
                    deeds.sources[lay.key] += _told(arguments, reads)
                continue
            made.add(lay.key)
            written.append(lay)
            if any(each.contains(lay) for each in results):
                continue
            if any(each.touches(lay) for each in (*operands, *results)):
                fail(f"{_name(function)} writes where an operand lies, or beyond its result")
            deeds.scratch[lay.key], deeds.sources[lay.key] = lay, _told(arguments, reads)
    for lay in operands:
        deeds.reads.setdefault(lay.key, lay)
    for lay in results:
        if lay.key not in made and not covers(written, lay):
            fail("its calls do not write all of its result")
    if step.stop - step.start > 1:
        _hold_apart(operands, results, fail)
    return deeds


def _told(arguments: Sequence[Any], reads: Sequence[Lay]) -> list[Lay | None]:
    return [*reads, *(None for each in arguments if not is_array(each))]


def _lies_within(lay: Lay, others: Sequence[Lay]) -> bool:
    """Whether it lies between the first and the last byte of one of the others."""
    return any(each.low <= lay.low and lay.high <= each.high for each in others)


def _hold_apart(operands: Sequence[Lay], results: Sequence[Lay], fail: Callable[[str], NoReturn]) -> None:
    """A result may lie where an operand does, element on element, and in no other way."""
    for result in results:
        for operand in operands:
            if result.form != operand.form and result.touches(operand):
                fail("a result lies across an operand: what one call writes, the next would read")


def _name(function: Any) -> str:
    home = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None) or repr(function)
    return f"{home}.{name}" if home else str(name)
