"""The rule of a cast to more bits."""

from __future__ import annotations

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.precision import widen
from graphir.operators.cast import cast


@rules.emits(cast)
def _cast(call: Calls, X: Array, Y: Array, *, to: str) -> bool:
    if X.dtype.name != "bfloat16" or to != "float32":
        return False
    call(widen, X, Y)
    return True
