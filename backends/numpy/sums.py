"""Sums as NumPy and BLAS add up fastest: of a matrix's rows or columns a product with ones or weights. Extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy import calls
from graphir.backends.numpy.shared import ones, row_dots
from graphir.backends.numpy.tile_arrays import TileArrays
from graphir.formula.terms import Term


def record_sum(
    call: Calls,
    arrays: TileArrays,
    term: Term,
    parts: Sequence[Array],
    out: Array,
    spare: Callable[[tuple[int, ...], np.dtype[Any]], Array],
) -> None:
    """Records the sum of the product of `parts`, one or two arrays, over the factors of `term`.

    `spare` gives memory to work in until this is recorded.
    """
    body = term.operands[0].factors
    over, kept = arrays.axes(term.detail), arrays.axes(term.factors)
    lengths = [arrays.lengths[factor] if factor in body else 1 for factor in arrays.order]
    if len(parts) == 2:
        X, Y = parts
        columns = bool(kept) and max(over) < min(kept) and X.shape == Y.shape == tuple(lengths)
        if not (columns and _matrix(X, over, kept) is not None and X.dtype == Y.dtype == out.dtype):
            _record_products(call, X, Y, over, kept, lengths, out)
            return
        # Of columns the product first: NumPy's sums of products go through a column element by element.
        product = spare(X.shape, X.dtype)
        call(np.multiply, X, Y, product)
        parts = (product,)
    X = np.broadcast_to(parts[0], lengths) if parts[0].shape != tuple(lengths) else parts[0]
    matrix = _matrix(X, over, kept)
    flat = _line(out)
    if X.dtype.kind == "f" and kept and matrix is not None and flat is not None and X.dtype == out.dtype:
        if min(over) > max(kept):
            call(np.matmul, matrix, ones(call, matrix.shape[1], X.dtype), flat)
        else:
            call(np.matmul, ones(call, matrix.shape[0], X.dtype), matrix, flat)
        return
    target = out[(*(0 if i in over else slice(None) for i in range(out.ndim)), ...)]
    call(np.add.reduce, X, over, None if X.dtype == out.dtype else out.dtype, target)


def _record_products(
    call: Calls, X: Array, Y: Array, over: Sequence[int], kept: Sequence[int], lengths: Sequence[int], out: Array
) -> None:
    """Records Σ X ⊙ Y."""
    if list(X.shape) != list(lengths):
        X, Y = Y, X
    if list(X.shape) != list(lengths):
        X = np.broadcast_to(X, lengths)
    flat = _line(out)
    if X is Y and not kept and X.flags.c_contiguous:
        line = X.reshape(-1)
        call(np.matmul, line, line, out.reshape(()))
        return
    if Y.shape == X.shape and len(over) == 1 and kept and over[0] > max(kept):
        inside = [slice(None) if size > 1 and i not in over else 0 for i, size in enumerate(lengths)]
        drop = (*(slice(None) if i in over else each for i, each in enumerate(inside)), ...)
        call(row_dots, X[drop], Y[drop], out[(*inside, ...)])
        return
    weights = all(size == 1 or i in over for i, size in enumerate(Y.shape))
    full = all(Y.shape[i] == lengths[i] for i in over)
    matrix = _matrix(X, over, kept) if weights and full and kept else None
    vector = _line(Y) if matrix is not None else None
    if matrix is not None and vector is not None and flat is not None:
        call(np.matmul, *((matrix, vector) if min(over) > max(kept) else (vector, matrix)), flat)
        return
    call(calls.sum_products, X, Y, tuple(over), out)


def record_extreme(call: Calls, operation: str, X: Array, axes: Sequence[int], out: Array) -> None:
    """Records the largest or smallest element, `max` or `min`, over some axes, which `out` has with length 1."""
    function = np.maximum if operation == "max" else np.minimum
    if tuple(axes) == (X.ndim - 1,) and X.flags.c_contiguous and out.flags.c_contiguous:
        starts = call.constant(np.arange, 0, X.size, X.shape[-1])
        call(calls.extreme_of_rows, function, X.reshape(-1), starts, out.reshape(-1))
        return
    kept = (*(slice(None) if i not in axes else 0 for i in range(X.ndim)), ...)
    call(function.reduce, X, tuple(axes) if len(axes) > 1 else axes[0], None, out[kept])


def _matrix(X: Array, over: Sequence[int], kept: Sequence[int]) -> Array | None:
    """X as a matrix of what is kept and what is added up, whichever comes first; None where it lies in no such way."""
    if not kept or not (min(over) > max(kept) or max(over) < min(kept)) or 0 in X.strides:
        return None
    first, second = (kept, over) if min(over) > max(kept) else (over, kept)
    shape = [math.prod(X.shape[i] for i in each) for each in (first, second)]
    matrix = X.reshape(shape)
    return matrix if np.may_share_memory(matrix, X) else None


def _line(X: Array) -> Array | None:
    return X.reshape(-1) if X.flags.c_contiguous else None
