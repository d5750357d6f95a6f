"""Calls that are carried out only if a condition holds that is known by then: an update that may not happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array, Calls, Function
from graphir.backends.effects import Effects, effects_of, judges, writes
from graphir.ir.operator import Place


@dataclass(frozen=True)
class Guarded:
    """Calls that are carried out only if `ok` holds by then."""

    call: Calls
    ok: Array

    def __call__(self, function: Function, *arguments: Any) -> None:
        self.call(carry_out_if, self.ok, function, *arguments)

    def scratch(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        return self.call.scratch(shape, dtype)

    def prepared(self, shape: Sequence[int], dtype: DTypeLike, function: Function, *arguments: Any) -> Array:
        return self.call.prepared(shape, dtype, function, *arguments)

    def constant(self, make: Callable[..., Array], *arguments: Any) -> Array:
        return self.call.constant(make, *arguments)

    def anew(self, record: Function, place: Place, attributes: Mapping[str, Any], *arguments: Any) -> None:
        self.call.anew(_record_if, place, attributes, self.ok, record, *arguments)


def guarded(call: Calls, ok: Array, pairs: Sequence[tuple[Array, Array]]) -> Calls:
    """Where calls go that are to happen only if `ok` holds; if not, of each of `pairs` the first is the second."""
    for new, old in pairs:
        call(copy_unless, ok, new, old)
    return Guarded(call, ok)


def _record_if(
    call: Calls, place: Place, attributes: Mapping[str, Any], ok: Array, record: Function, *arguments: Any
) -> None:
    record(Guarded(call, ok), place, attributes, *arguments)


def carry_out_if(ok: Array, function: Function, *arguments: Any) -> None:
    """A call, if `ok` holds."""
    if ok:
        function(*arguments)


@judges(carry_out_if)
def _effects_if(ok: Array, function: Function, *arguments: Any) -> Effects | None:
    """Those of the call; where it is not carried out, `copy_unless` has written in its place."""
    found = effects_of(function, arguments)
    return None if found is None else Effects([ok, *found.reads], found.writes, found.spans)


@writes("new")
def copy_unless(ok: Array, new: Array, old: Array) -> None:
    """The old as the new, if `ok` does not hold."""
    if not ok:
        np.copyto(new, old)
