"""What the rules share: constants as arrays, masked scores, sums over rows [*b, d] and columns, where to work in place.

Sums go through BLAS (a product with ones) where NumPy's own reductions are slower. Work buffers are the outputs
themselves where those are free: the fewer buffers a tile touches, the more of it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, Function, rows
from graphir.backends.effects import writes
from graphir.backends.numpy.calls import maximum
from graphir.operators.special import masked_score


def number(value: float, like: Array) -> Array:
    """`value` as an array [] of the dtype of `like`: a ufunc need not convert it at every call."""
    return np.array(value, like.dtype)


def full_row(call: Calls, value: float, like: Array) -> Array:
    """`value` in each column of `like` [*b, d], as [d]: min and max are several times slower with a scalar."""
    return call.constant(np.full, like.shape[-1:], value, like.dtype)


def ones(call: Calls, count: int, dtype: np.dtype[Any]) -> Array:
    """1 in each of `count` places."""
    return call.constant(np.full, (count,), 1.0, dtype)


def made(call: Calls, out: Array | None, like: Array) -> Array:
    """`out`, or where that is not wanted a scratch buffer like `like`, for what else follows from it."""
    return call.scratch(like.shape, like.dtype) if out is None else out


def workspace(call: Calls, out: Array, *operands: Array) -> Array:
    """`out` itself if it may be written before the `operands` are read for the last time, or a scratch buffer."""
    free = out.flags.c_contiguous and not any(np.may_share_memory(out, operand) for operand in operands)
    return out if free else call.scratch(out.shape, out.dtype)


def unbroadcast(X: Array) -> Array:
    """X with the dims along which it only repeats itself cut down to one entry."""
    repeats = [stride == 0 and size > 1 for stride, size in zip(X.strides, X.shape, strict=True)]
    return X[tuple(slice(0, 1) if repeat else slice(None) for repeat in repeats)] if any(repeats) else X


def row_column(X: Array) -> Array:
    """X [*b] as [*b, 1]: what widens over the rows of [*b, d]."""
    return X[..., None]


def least_score(like: Array) -> Any:
    """The smallest number that is not masked, of the dtype of `like`.

    The larger of it and a row's maximum is what scores are taken relative to: exp is 0 at masked ones, in a row of
    nothing else, too, and no other row's numbers change.
    """
    return np.nextafter(masked_score(like.dtype), like.dtype.type(0))


def above_masked(call: Calls, top: Array) -> Array:
    """Records the larger of maxima `top` [*b] and the least score into a scratch buffer, which it returns."""
    level = call.scratch(top.shape, top.dtype)
    call(maximum, top, number(least_score(top), top), level)
    return level


def record_shares(call: Calls, powers: Array, s: Array) -> None:
    """Records powers / s in place, for their sums s [*b]: 0 in a row all of which is masked, whose sum is 0."""
    share, none = call.scratch(s.shape, s.dtype), call.scratch(s.shape, bool)
    call(np.equal, s, number(0, s), none)
    call(np.add, s, none, share)
    # A product a number is faster than a quotient.
    call(np.reciprocal, share, share)
    call(np.multiply, powers, row_column(share), powers)


def row_sums(call: Calls, X: Array, out: Array, weights: Array | None = None) -> None:
    """Records out [*b] = Σ X [*b, d], over the last dim, each column times its weight [d] if there are weights."""
    matrix, flat = rows(X), out.reshape(-1) if out.flags.c_contiguous else None
    if matrix is not None and flat is not None and X.ndim > 1:
        X, out = matrix, flat
    call(np.matmul, X, ones(call, X.shape[-1], X.dtype) if weights is None else weights, out)


def column_sums(call: Calls, X: Array, out: Array, weights: Array | None = None) -> None:
    """Records out [d] = Σ X [n, d], over the first dim, each row times its weight [n] if there are weights."""
    call(np.matmul, ones(call, X.shape[0], X.dtype) if weights is None else weights, X, out)


@writes("out")
def _row_dots(X: Array, Y: Array, out: Array) -> None:
    np.einsum("...d,...d->...", X, Y, out=out)


#: row_dots(X, Y, out): out [*b] = Σ X ⊙ Y of X, Y [*b, d]. NumPy before 2.0 has no vecdot.
row_dots: Function = np.vecdot if hasattr(np, "vecdot") else _row_dots


def polynomial(call: Calls, x: Array, coefficients: Sequence[float], out: Array) -> None:
    """Records out = Σ c_i x^i (Horner), the highest power first; x and out are different buffers."""
    highest, *inner, lowest = coefficients
    call(np.multiply, x, number(highest, x), out)
    for coefficient in inner:
        call(np.add, out, number(coefficient, x), out)
        call(np.multiply, out, x, out)
    call(np.add, out, number(lowest, x), out)
