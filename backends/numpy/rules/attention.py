"""Rules of attention's own operators: SM, S, dSM, dS, on tiles [*b, q, k] of the scores.

Where queries begin at q₀ and keys at k₀, all queries of a causal tile see the columns up to k₀ + j ≤ q₀: those need
no mask, only the columns behind them do. A mask is a bound that the scores are cut to, +∞ where a query may see a
key: a minimum is one fast pass, a choice between two arrays is not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy.engine import minimum, rules
from graphir.backends.numpy.rules.shared import (
    above_masked,
    least_score,
    made,
    number,
    record_shares,
    row_column,
    row_dots,
    row_sums,
)
from graphir.ir.operator import Place
from graphir.operators.attention import d_scale_mask, d_softmax, scale_mask, softmax, softmax_rows
from graphir.operators.special import masked_score


@rules.emits(scale_mask, inplace={"Z": "A"})
def _scale_mask(
    call: Calls,
    A: Array,
    keep: Array | None,
    Z: Array,
    *,
    width: int,
    causal: bool,
    mask: str,
    at: Place,
) -> None:
    call(np.multiply, A, number(1 / math.sqrt(width), A), Z)
    if causal:
        first, bound = _triangle(call, Z, at, math.inf, masked_score(Z.dtype))
        call(minimum, Z[..., first:], bound, Z[..., first:])
    if keep is not None:
        table = call.constant(np.array, (masked_score(Z.dtype), math.inf), Z.dtype)
        bound = call.scratch(keep.shape, Z.dtype)
        call(np.take, table, keep.view(np.uint8), None, bound, "clip")
        call(minimum, Z, _widen(bound, mask, Z.ndim), Z)


@rules.emits(d_scale_mask, inplace={"dA": "dZ"})
def _d_scale_mask(
    call: Calls,
    dZ: Array,
    keep: Array | None,
    dA: Array,
    *,
    width: int,
    causal: bool,
    mask: str,
    at: Place,
) -> None:
    call(np.multiply, dZ, number(1 / math.sqrt(width), dZ), dA)
    if causal:
        first, seen = _triangle(call, dA, at, 1, 0)
        call(np.multiply, dA[..., first:], seen, dA[..., first:])
    if keep is not None:
        seen = call.scratch(keep.shape, dA.dtype)
        call(np.copyto, seen, keep)
        call(np.multiply, dA, _widen(seen, mask, dA.ndim), dA)


def _triangle(call: Calls, scores: Array, at: Place, seen: float, hidden: float) -> tuple[int, Array]:
    """The first column that some query does not see, and for the columns from there on `seen` or `hidden`."""
    queries, keys = scores.shape[-2:]
    ahead = at.start("q") - at.start("k")
    first = min(max(ahead + 1, 0), keys)
    return first, call.constant(_causal, queries, keys - first, ahead - first, seen, hidden, scores.dtype)


def _causal(queries: int, width: int, offset: int, seen: float, hidden: float, dtype: np.dtype[Any]) -> Array:
    """[queries, width]: `seen` up to column q + offset of query q, `hidden` behind."""
    allowed = np.arange(queries)[:, None] + offset >= np.arange(width)
    return np.where(allowed, seen, hidden).astype(dtype)


def _widen(keep: Array, mask: str, rank: int) -> Array:
    """A padding mask [b, k] holds for every head and query, a given one [q, k] for every b and head."""
    return keep.reshape(keep.shape[0], *(1,) * (rank - 2), keep.shape[1]) if mask == "padding" else keep


@rules.emits(softmax, inplace={"P": "Z"})
def _softmax(call: Calls, Z: Array, P: Array) -> Any:
    return _softmax_rows(call, Z, P, None, None)


@rules.emits(softmax_rows, inplace={"P": "Z"})
def _softmax_rows(call: Calls, Z: Array, P: Array | None, top: Array | None, s: Array | None) -> Any:
    if Z.size == 0:
        return False
    P, s = made(call, P, Z), made(call, s, Z[..., 0])
    if top is None:
        level = call.scratch(Z.shape[:-1], Z.dtype)
        call(np.maximum.reduce, Z, -1, None, level, False, least_score(Z))
    else:
        call(np.maximum.reduce, Z, -1, None, top)
        level = above_masked(call, top)
    call(np.subtract, Z, row_column(level), P)
    call(np.exp, P, P)
    row_sums(call, P, s)
    record_shares(call, P, s)
    return None


@rules.emits(d_softmax, inplace={"dZ": "dP"})
def _d_softmax(call: Calls, P: Array, dP: Array, dZ: Array) -> None:
    along = call.scratch(P.shape[:-1], P.dtype)
    call(row_dots, P, dP, along)
    call(np.subtract, dP, row_column(along), dZ)
    call(np.multiply, dZ, P, dZ)
