"""What rules and formulas share: constants as arrays, where to work in place, inner products, Φ."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, Function
from graphir.backends.effects import writes
from graphir.backends.numpy.calls import minimum


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


# Φ(x) = ½ (1 + tanh(x p(x²))) for the normal distribution Φ: p by least squares, reweighted towards the smallest
# largest error of Φ, which is 3e-8 up to |x| = 5.6 and beyond, where x² stays: half a unit in the last place of
# float32. Fitting tanh's argument in place of Φ leaves it to tend to ±1, so that no case must be told apart.
NORMAL = (
    1.7561730628642536e-09, -1.322634162180161e-07, 3.96474529499981e-06, -5.5306198027251513e-05,
    -3.259496640420918e-05, 0.0363330845666195, 0.7978849414618159,
)  # fmt: skip
NORMAL_LIMIT = 5.6**2


def record_normal(call: Calls, X: Array, out: Array) -> None:
    """Records out = Φ(X) = 1 / (1 + exp(−2u)), u = X p(X²), to float32's precision; `out` shares no memory with X."""
    square = call.scratch(X.shape, X.dtype)
    call(np.square, X, square)
    call(minimum, square, full_row(call, NORMAL_LIMIT, square), square)
    highest, *others = (-2 * coefficient for coefficient in NORMAL)
    call(np.multiply, square, number(highest, X.dtype), out)
    for coefficient in others[:-1]:
        call(np.add, out, number(coefficient, X.dtype), out)
        call(np.multiply, out, square, out)
    call(np.add, out, number(others[-1], X.dtype), out)
    call(np.multiply, out, X, out)
    call(np.exp, out, out)
    call(np.add, out, number(1, X.dtype), out)
    call(np.divide, number(1, X.dtype), out, out)
