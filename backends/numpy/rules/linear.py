"""The rules of • and dMatmul: BLAS on views; T is a flag of BLAS, never a copy."""

from __future__ import annotations

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, rows
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.precision import summable, widened
from graphir.operators.linear import d_matmul, matmul


@rules.emits(matmul)
def _matmul(call: Calls, X: Array, W: Array, Y: Array, *, dtype: str) -> None:
    """As `_multiply`, of operands wide enough to be added up."""
    sums = summable(call, Y)
    _multiply(call, widened(call, X), widened(call, W), sums)
    if sums is not Y:
        call(np.copyto, Y, sums)


def _multiply(call: Calls, X: Array, W: Array, Y: Array) -> None:
    """One product where all rows lie side by side, else one for each matrix."""
    if W.ndim == 2 and X.ndim > 2:
        flat_X, flat_Y = rows(X), rows(Y)
        if flat_X is not None and flat_Y is not None:
            X, Y = flat_X, flat_Y
    # A group's matrix is multiplied where it lies, once for each of the group.
    call(np.matmul, X, W[..., None, :, :] if 2 < W.ndim < X.ndim else W, Y)


@rules.emits(d_matmul)
def _d_matmul(
    call: Calls,
    X: Array | None,
    W: Array | None,
    dY: Array,
    dX: Array | None,
    dW: Array | None,
    *,
    shared: bool,
    grouped: bool,
    dtype: str,
) -> bool:
    """dX = dY • Wᵀ, dW = Xᵀ • dY; of a shared W the rows of all *b in one product, of a group's W those of all g."""
    if dX is not None:
        assert W is not None
        _matmul(call, dY, W.swapaxes(-1, -2), dX, dtype=dtype)
    if dW is not None:
        assert X is not None
        if shared:
            flat_X, flat_dY = rows(X), rows(dY)
            if flat_X is None or flat_dY is None:
                return False
            X, dY = flat_X, flat_dY
        if grouped:
            X, dY = _one_behind_the_other(call, X), _one_behind_the_other(call, dY)
        _matmul(call, X.swapaxes(-1, -2), dY, dW, dtype=dtype)
    return True


def _one_behind_the_other(call: Calls, X: Array) -> Array:
    """X [*b, g, m, d] as [*b, (g m), d]: a view where the rows lie so, else a copy."""
    *leading, g, m, d = X.shape
    if g > 1 and m > 1 and X.strides[-3] != m * X.strides[-2]:
        copy = call.scratch(X.shape, X.dtype)
        call(np.copyto, copy, X)
        X = copy
    return X.reshape(*leading, g * m, d)
