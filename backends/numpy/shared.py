"""What rules and formulas share: constants as arrays, where to work in place, inner products, polynomials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, Function
from graphir.backends.effects import writes


def number(value: float, dtype: np.dtype[Any]) -> Array:
    """`value` as an array [] of a dtype: a ufunc need not convert it at every call. What is too large is infinite."""
    if dtype.itemsize > 2:
        return np.array(value, dtype)
    with np.errstate(over="ignore"):
        return np.array(value, dtype)


def full_row(call: Calls, value: float, like: Array) -> Array:
    """`value` in each column of `like` [*b, d], as [d]: min and max are several times slower with a scalar."""
    return call.constant(np.full, like.shape[-1:], number(value, like.dtype).item(), like.dtype)


def ones(call: Calls, count: int, dtype: np.dtype[Any]) -> Array:
    """1 in each of `count` places."""
    return call.constant(np.full, (count,), 1.0, dtype)


def workspace(call: Calls, out: Array, *operands: Array) -> Array:
    """`out` itself if it may be written before the `operands` are read for the last time, or a scratch buffer."""
    free = out.flags.c_contiguous and not any(np.may_share_memory(out, operand) for operand in operands)
    return out if free else call.scratch(out.shape, out.dtype)


@writes("out")
def _row_dots(X: Array, Y: Array, out: Array) -> None:
    np.einsum("...d,...d->...", X, Y, out=out)


#: row_dots(X, Y, out): out [*b] = Σ X ⊙ Y of X, Y [*b, d]. NumPy before 2.0 has no vecdot.
row_dots: Function = np.vecdot if hasattr(np, "vecdot") else _row_dots


def polynomial(call: Calls, x: Array, coefficients: Sequence[float], out: Array) -> None:
    """Records out = Σ c_i x^i (Horner), the highest power first; x and out are different buffers."""
    highest, *inner, lowest = coefficients
    call(np.multiply, x, number(highest, x.dtype), out)
    for coefficient in inner:
        call(np.add, out, number(coefficient, x.dtype), out)
        call(np.multiply, out, x, out)
    call(np.add, out, number(lowest, x.dtype), out)
