"""Arrays that are given away: each of them has memory of its own, or one update would write over what another reads.

A program is proved with buffers of its own for every argument. With `donate=True` it writes into the caller's, and what
has been proved holds of them only if they share no element, with each other or with anything else that is handed in.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from graphir.backends.compiled.buffers import Span, addresses
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.engine import Engine
from graphir.errors import InputError
from graphir.ir.value import Value

#: How hard it is looked whether arrays that lie in each other's gaps have an element in common; any number does.
_EFFORT: Any = 1 << 20


class _Place(NamedTuple):
    """Where an argument's array lies."""

    span: Span
    value: Value
    array: Callable[[], Any]


class Donation:
    """Looks at what is handed in for the arguments `donated`, and for all others, before each run.

    Arrays that were found to be apart are known again as long as they live: of those from step to step nothing is asked
    but whether they are still the same.
    """

    def __init__(self, engine: Engine, donated: Iterable[Value]) -> None:
        self._engine, self._donated = engine, frozenset(donated)
        self._known: dict[Value, Callable[[], Any]] = {}
        #: Of the arrays that are known, in the order of their addresses, with the addresses at which they begin, and
        #: those that they and all before them end at.
        self._places: list[_Place] = []
        self._starts: list[int] = []
        self._ends: list[int] = []

    def check(self, given: Mapping[Value, Any]) -> None:
        """InputError, with both names, for an argument that is written over and shares memory with another."""
        if not self._donated:
            return
        known = self._known
        if not all(value in known and known[value]() is given[value] for value in self._donated):
            self._learn(given)
        for value, array in given.items():
            if value not in self._donated and value.dtype != "text":
                self._require_apart(value, array)

    def _learn(self, given: Mapping[Value, Any]) -> None:
        self._known = {}
        places = []
        for value in self._donated:
            array = given[value]
            self._require_no_repetition(value, array)
            span = addresses(self._engine, array)
            if span is not None:
                places.append(_Place(span, value, ref(array)))
        places.sort(key=lambda each: each.span)
        for i, place in enumerate(places):
            for other in places[i + 1 :]:
                if other.span[0] >= place.span[1]:
                    break
                if self._share(place.array(), other.array()):
                    one, two = sorted((place.value, other.value), key=lambda value: value.name)
                    raise InputError(
                        f"{one.name} and {two.name} are both updated in place, but the arrays that are given for them "
                        f"share memory: one update would write over the other; give each an array of its own, or "
                        f"compile with donate=False"
                    )
        self._places, self._starts = places, [place.span[0] for place in places]
        self._ends = list(itertools.accumulate((place.span[1] for place in places), max))
        self._known = {value: ref(given[value]) for value in self._donated}

    def _require_apart(self, value: Value, array: Any) -> None:
        span = addresses(self._engine, array)
        if span is None:
            return
        # From the last that begins before this one ends, to where none reaches as far as its beginning.
        at = bisect.bisect_left(self._starts, span[1]) - 1
        while at >= 0 and self._ends[at] > span[0]:
            place = self._places[at]
            if place.span[1] > span[0] and self._share(place.array(), array):
                raise InputError(
                    f"{place.value.name} is updated in place, but the array that is given for it shares memory with "
                    f"that for {value.name}; give each an array of its own, or compile with donate=False"
                )
            at -= 1

    def _share(self, one: Any, other: Any) -> bool:
        """Whether two arrays whose spans overlap have an element in common."""
        if one.flags.c_contiguous and other.flags.c_contiguous:
            return True
        try:
            return bool(np.shares_memory(self._seen(one), self._seen(other), max_work=_EFFORT))
        except np.exceptions.TooHardError:
            return True

    def _require_no_repetition(self, value: Value, array: Any) -> None:
        """InputError for an array several of whose elements are one."""
        if array.flags.c_contiguous or array.flags.f_contiguous or array.size == 0:
            return
        reach = array.itemsize
        for length, stride in sorted(zip(array.shape, array.strides, strict=True), key=lambda each: abs(each[1])):
            if length > 1:
                if abs(stride) < reach:
                    raise InputError(
                        f"{value.name} is updated in place, but in the array that is given for it, of shape "
                        f"{list(array.shape)} and strides {list(array.strides)}, elements share memory; give a copy, "
                        f"or compile with donate=False"
                    )
                reach += (length - 1) * abs(stride)

    def _seen(self, array: Any) -> Array:
        """A NumPy array that lies where `array` does, wherever that is; it is not to be looked into."""
        seen: Array = np.asarray(_ArrayInterface(self._engine.address(array), array))
        return seen


class _ArrayInterface:
    """The memory of an array, as NumPy asks for it."""

    def __init__(self, address: int, array: Any) -> None:
        self.__array_interface__ = {
            "data": (address, True),
            "shape": tuple(array.shape),
            "strides": tuple(array.strides),
            "typestr": f"|V{array.itemsize}",
            "version": 3,
        }


__all__ = ["Donation"]
