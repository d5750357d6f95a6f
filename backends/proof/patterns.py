"""Steps that are alike: what has been held once is known of every step of the same pattern.

What `hold` says of a step follows from which of its calls' arguments are which arrays, from their shapes and strides,
and from how they lie to each other where they share bytes; where all of it lies does not matter. Tiles, layers and
tensors of one shape repeat it, so most steps are looked up. A pattern says all of this, in numbers:

    words       the step's operands and results, and each call's function and arguments, arrays numbered as they come
    places      of each array its shape, strides and itemsize, and where it lies among those that it touches

Arrays neither overlap nor lie side by side unless they are counted from the same byte: that two of them have nothing
to do with each other is all that is said of any others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from graphir.backends.effects import is_closed
from graphir.backends.proof.calls import Deeds, Lays, hold
from graphir.backends.proof.lays import Lay, is_array
from graphir.backends.trace import Call, Step

_CALL, _SIDE, _NODE, _OPEN, _CLOSE = "call", "side", "node", "(", ")"
#: What is told by its value; of all else, but for arrays, it is told which object it is.
_PLAIN = (int, float, str, bytes, type(None), np.number, np.bool_, np.dtype)


class _Held(NamedTuple):
    """A step's deeds: the numbers of arrays, and for each of scratch those of what the calls that write it read."""

    reads: Sequence[int]
    writes: Sequence[int]
    scratch: Sequence[int]
    outside: Sequence[int]
    sources: Sequence[Sequence[int | None]]


class Holder:
    """Holds calls to their steps, each pattern once.

    With `again`, each step is held all the same, and has to have the same deeds as others of its pattern: else
    AssertionError.
    """

    def __init__(self, lays: Lays, again: bool = False) -> None:
        self._lays, self._again = lays, again
        self._known: dict[object, _Held] = {}
        self._closed: dict[Any, bool] = {}

    def hold(self, step: Step, calls: Sequence[Call], fail: Callable[[str], NoReturn]) -> Deeds:
        """What the step's calls do; `fail` where that is not what the step says."""
        text = _Text(self._lays, self._closed)
        if not text.read(step, calls):
            return hold(step, calls, self._lays, fail)
        pattern, lays = text.pattern(), text.lays
        held = self._known.get(pattern)
        if held is not None and not self._again:
            return _deeds(held, lays)
        deeds = hold(step, calls, self._lays, fail)
        found = _numbered(deeds, lays)
        if held is not None and found != held:
            raise AssertionError(f"steps of one pattern are held to different deeds: {held} and {found}")
        if found is not None:
            self._known[pattern] = found
        return deeds


class _Text:
    """A step as words, and its arrays in the order in which they come."""

    def __init__(self, lays: Lays, closed: dict[Any, bool]) -> None:
        self._lays, self._closed = lays, closed
        self.lays: list[Lay] = []
        self._words: list[object] = []
        self._numbers: dict[int, int] = {}

    def read(self, step: Step, calls: Sequence[Call]) -> bool:
        """Takes in a step; False where it calls what may touch other memory than that of its arguments."""
        words = self._words
        for side in (step.operands, step.results):
            words.append(_SIDE)
            for arrays in side:
                words.append(_NODE)
                for array in arrays:
                    self._take(array)
        for function, arguments in calls[step.start : step.stop]:
            if not self._is_closed(function):
                return False
            words.append(_CALL)
            words.append(function)
            if not all(map(self._take, arguments)):
                return False
        return True

    def _is_closed(self, function: Any) -> bool:
        closed = self._closed.get(function)
        if closed is None:
            closed = self._closed[function] = is_closed(function)
        return closed

    def _take(self, thing: Any) -> bool:
        """One argument; False of a function that may touch other memory than that of its arguments."""
        number = self._numbers.get(id(thing))
        if number is not None:
            self._words.append(number)
        elif isinstance(thing, np.ndarray) or is_array(thing):
            self._words.append(len(self.lays))
            self._numbers[id(thing)] = len(self.lays)
            self.lays.append(self._lays.of(thing))
        elif isinstance(thing, (tuple, list)):
            self._words.append(_OPEN)
            if not all(map(self._take, thing)):
                return False
            self._words.append(_CLOSE)
        elif callable(thing) and not isinstance(thing, type):
            self._words.append((_CALL, thing))
            return self._is_closed(thing)
        else:
            self._words.append((type(thing), thing if isinstance(thing, _PLAIN) else id(thing)))
        return True

    def pattern(self) -> object:
        """Equal for steps of which the same holds."""
        bases = [0] * len(self.lays)
        base = reach = -1
        for low, high, number in sorted([(lay.low, lay.high, number) for number, lay in enumerate(self.lays)]):
            # An empty array is nowhere, and touches nothing.
            if low > reach or low == high:
                base = low
            if high > reach:
                reach = high
            bases[number] = base
        names: dict[int, int] = {}
        places: list[object] = []
        for lay, base in zip(self.lays, bases, strict=True):
            places += (lay.cut, names.setdefault(base, len(names)), lay.low - base)
        return tuple(self._words), tuple(places)


def _numbered(deeds: Deeds, lays: Sequence[Lay]) -> _Held | None:
    """Deeds by the arrays' numbers; None where they touch others."""
    numbers: dict[object, int] = {lay.key: number for number, lay in enumerate(lays)}

    def named(keys: Iterable[object]) -> tuple[int, ...]:
        return tuple([numbers[key] for key in keys])

    try:
        told = [deeds.sources[key] for key in deeds.scratch]
        sources = tuple([tuple([None if lay is None else numbers[lay.key] for lay in each]) for each in told])
        return _Held(named(deeds.reads), named(deeds.writes), named(deeds.scratch), named(deeds.outside), sources)
    except KeyError:
        return None


def _deeds(held: _Held, lays: Sequence[Lay]) -> Deeds:
    reads, writes, scratch, outside = ({lays[i].key: lays[i] for i in numbers} for numbers in held[:4])
    told = [[None if i is None else lays[i] for i in each] for each in held.sources]
    return Deeds(reads, writes, scratch, outside, dict(zip(scratch, told, strict=True)))
