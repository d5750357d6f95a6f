"""The gradient of CE: dCE, on rows of logits [*b, V].

By its formula a row of labels is as long as a row of logits. Here one element of a row is subtracted from: which column
that is is known at run time only, and a function of the few rows of a tile does it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, rows
from graphir.backends.effects import writes
from graphir.backends.numpy.engine import rules
from graphir.ir.operator import Place
from graphir.operators.loss import d_cross_entropy
from graphir.operators.special import is_masked


@rules.emits(d_cross_entropy, inplace={"dZ": "Z"})
def _d_cross_entropy(
    call: Calls, Z: Array, lse: Array, Y: Array, dL: Array, dZ: Array, *, ignore: int, at: Place
) -> Any:
    gradients = rows(dZ) if dZ.size else None
    if gradients is None:
        return False
    weights, ones = call.scratch(lse.shape, Z.dtype), call.scratch(lse.shape, Z.dtype)
    columns = call.scratch(lse.shape, np.int64)
    # Of the logits first, which P may be written over.
    call(_write_labels, Z, Y, dL, ignore, at.start("v"), columns, ones, weights)
    call(np.subtract, Z, lse[..., None], dZ)
    call(np.exp, dZ, dZ)
    call(_subtract_labels, gradients, columns, ones)
    call(np.multiply, dZ, weights[..., None], dZ)
    return None


@writes("columns", "ones", "weights")
def _write_labels(
    Z: Array, Y: Array, dL: Array, ignore: int, first: int, columns: Array, ones: Array, weights: Array
) -> None:
    """Of each row the label's column, with 1, or any with 0: where Z, whose columns begin at `first`, has it not, or
    it is masked or `ignore`. The weights are dL, or 0 where Y is `ignore`."""
    valid = np.not_equal(Y, ignore)
    np.subtract(Y, first, columns)
    here = valid & (columns >= 0) & (columns < Z.shape[-1])
    np.multiply(columns, here, columns)
    np.copyto(ones, here & ~is_masked(_picked(Z.reshape(-1, Z.shape[-1]), columns)))
    np.multiply(dL, valid, weights)


def _picked(logits: Array, columns: Array) -> Array:
    """Of each row of logits [n, v] the one in its column; `columns` [*b] are n numbers."""
    return logits[np.arange(len(logits)), columns.reshape(-1)].reshape(columns.shape)


@writes(updates="P")
def _subtract_labels(P: Array, columns: Array, ones: Array) -> None:
    """P − onehot(Y) in place."""
    P[np.arange(len(P)), columns.reshape(-1)] -= ones.reshape(-1)
