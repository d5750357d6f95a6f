"""Rules of layer normalization: LN and dLN, on rows [*b, D], n of them.

N = X − μ. The backward pass needs the row sums Σ g and Σ g ⊙ X̂ of g = γ ⊙ dH: two products of a matrix and a vector,
dH • γ and (dH ⊙ N) • γ, without g or X̂ itself; dγ is one from the other side, r • (dH ⊙ N).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, rows
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.rules.shared import column_sums, made, number, row_column, row_dots, row_sums
from graphir.operators.normalization import d_layer_norm, layer_norm


@rules.emits(layer_norm, inplace={"H": "X"})
def _layer_norm(
    call: Calls,
    X: Array,
    gamma: Array,
    beta: Array,
    H: Array | None,
    mean: Array | None,
    rstd: Array | None,
    *,
    epsilon: float,
) -> Any:
    if X.size == 0:
        return False
    count = X.shape[-1]
    H, mean, rstd = made(call, H, X), made(call, mean, X[..., 0]), made(call, rstd, X[..., 0])
    row_sums(call, X, mean)
    call(np.divide, mean, number(count, X), mean)
    call(np.subtract, X, row_column(mean), H)
    # 1 / √(Σ N² / D + ε) = √D / √(Σ N² + D ε)
    call(row_dots, H, H, rstd)
    call(np.add, rstd, number(count * epsilon, X), rstd)
    call(np.sqrt, rstd, rstd)
    call(np.divide, number(math.sqrt(count), X), rstd, rstd)
    call(np.multiply, H, row_column(rstd), H)
    call(np.multiply, H, gamma, H)
    call(np.add, H, beta, H)
    return None


@rules.emits(d_layer_norm, inplace={"dX": "X dH"})
def _d_layer_norm(
    call: Calls,
    X: Array | None,
    gamma: Array | None,
    mean: Array | None,
    rstd: Array | None,
    dH: Array,
    dX: Array | None,
    dgamma: Array | None,
    dbeta: Array | None,
) -> Any:
    d_rows = rows(dH)
    if d_rows is None or dH.size == 0:
        return False
    # The sums first: dX may lie where dH does.
    if dbeta is not None:
        column_sums(call, d_rows, dbeta)
    if dX is None and dgamma is None:
        return None
    assert X is not None
    assert mean is not None
    assert rstd is not None
    normal, product = call.scratch(X.shape, X.dtype), call.scratch(X.shape, X.dtype)
    call(np.subtract, X, row_column(mean), normal)
    call(np.multiply, dH, normal, product)
    if dgamma is not None:
        column_sums(call, product.reshape(-1, X.shape[-1]), dgamma, _flat(call, rstd))
    if dX is not None:
        assert gamma is not None
        _row_gradient(call, gamma, rstd, dH, normal, product, dX)
    return None


def _row_gradient(call: Calls, gamma: Array, rstd: Array, dH: Array, normal: Array, product: Array, dX: Array) -> None:
    """Records dX = r (γ ⊙ dH − a − N b), a = Σ γ ⊙ dH / D, b = r² Σ γ ⊙ (dH ⊙ N) / D; overwrites N."""
    a, b = call.scratch(rstd.shape, rstd.dtype), call.scratch(rstd.shape, rstd.dtype)
    share = number(1 / dH.shape[-1], dH)
    row_sums(call, dH, a, gamma)
    call(np.multiply, a, share, a)
    row_sums(call, product, b, gamma)
    call(np.multiply, b, share, b)
    call(np.multiply, b, rstd, b)
    call(np.multiply, b, rstd, b)
    call(np.multiply, normal, row_column(b), normal)
    call(np.add, normal, row_column(a), normal)
    call(np.multiply, dH, gamma, dX)
    call(np.subtract, dX, normal, dX)
    call(np.multiply, dX, row_column(rstd), dX)


def _flat(call: Calls, X: Array) -> Array:
    """X [*b] as [n]; a copy in a scratch buffer where that is no view."""
    if X.flags.c_contiguous:
        return X.reshape(-1)
    copy = call.scratch(X.shape, X.dtype)
    call(np.copyto, copy, X)
    return copy.reshape(-1)
