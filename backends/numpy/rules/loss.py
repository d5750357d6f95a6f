"""Rules of the loss: CE, dCE, LSE and the padding of a vocabulary, on rows of logits [*b, V].

Which column a row's label picks is known at run time only: a function of the few rows of a tile does it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, rows
from graphir.backends.effects import writes
from graphir.backends.numpy.engine import minimum, rules
from graphir.backends.numpy.rules.shared import made, row_column, row_maxima, row_sums
from graphir.ir.operator import Place
from graphir.operators.loss import (
    cross_entropy,
    d_cross_entropy,
    d_mask_padding,
    log_sum_exp,
    mask_padding,
)
from graphir.operators.special import MASKED


@rules.emits(cross_entropy)
def _cross_entropy(
    call: Calls, Z: Array, Y: Array, L: Array | None, lse: Array | None, *, ignore: int, at: Place
) -> Any:
    logits = rows(Z) if Z.size else None
    if logits is None:
        return False
    lse = made(call, lse, Z[..., 0])
    _record_log_sum(call, Z, lse)
    if L is not None:
        call(_write_losses, logits, Y, lse, ignore, L)
    return None


@rules.emits(log_sum_exp)
def _log_sum_exp(call: Calls, Z: Array, lse: Array) -> Any:
    if Z.size == 0:
        return False
    _record_log_sum(call, Z, lse)
    return None


def _record_log_sum(call: Calls, Z: Array, lse: Array) -> None:
    top, powers = row_maxima(call, Z), call.scratch(Z.shape, Z.dtype)
    call(np.subtract, Z, top, powers)
    call(np.exp, powers, powers)
    row_sums(call, powers, lse)
    call(np.log, lse, lse)
    call(np.add, lse, top[..., 0], lse)


@writes("L")
def _write_losses(logits: Array, Y: Array, lse: Array, ignore: int, L: Array) -> None:
    valid = np.not_equal(Y, ignore)
    picked = logits[np.arange(len(logits)), (Y * valid).reshape(-1)].reshape(Y.shape)
    np.subtract(lse, picked, L)
    np.multiply(L, valid, L)


@rules.emits(d_cross_entropy, inplace={"dZ": "Z"})
def _d_cross_entropy(
    call: Calls, Z: Array, lse: Array, Y: Array, dL: Array, dZ: Array, *, ignore: int, at: Place
) -> Any:
    gradients = rows(dZ) if dZ.size else None
    if gradients is None:
        return False
    weights = call.scratch(Z.shape[:-1], Z.dtype)
    call(np.subtract, Z, row_column(lse), dZ)
    call(np.exp, dZ, dZ)
    call(_subtract_labels, gradients, Y, dL, ignore, at.start("v"), weights)
    call(np.multiply, dZ, row_column(weights), dZ)
    return None


@writes("weights", updates="P")
def _subtract_labels(P: Array, Y: Array, dL: Array, ignore: int, first: int, weights: Array) -> None:
    """P − onehot(Y) in place, whose columns begin at `first`; weights = dL, or 0 where Y is `ignore`."""
    valid = np.not_equal(Y, ignore)
    columns = Y.reshape(-1) - first
    here = np.flatnonzero(valid.reshape(-1) & (columns >= 0) & (columns < P.shape[1]))
    P[here, columns[here]] -= 1
    np.multiply(dL, valid, weights)


# -- a padded vocabulary ----------------------------------------------------------------------------------


@rules.emits(mask_padding, inplace={"Y": "Z"})
def _mask_padding(call: Calls, Z: Array, Y: Array, *, valid: int, at: Place) -> Any:
    if valid > at.sizes["v"]:
        return False  # the kernel says why
    call(minimum, Z, _columns(call, Z, valid - at.start("v"), math.inf, MASKED), Y)
    return None


@rules.emits(d_mask_padding, inplace={"dZ": "dY"})
def _d_mask_padding(call: Calls, dY: Array, dZ: Array, *, valid: int, at: Place) -> None:
    call(np.multiply, dY, _columns(call, dY, valid - at.start("v"), 1, 0), dZ)


def _columns(call: Calls, Z: Array, tokens: int, token: float, padding: float) -> Array:
    """[v]: `token` in the first `tokens` columns of Z, `padding` in the others."""
    width, dtype = Z.shape[-1], Z.dtype
    return call.constant(
        ("columns", width, min(max(tokens, 0), width), token, dtype.str),
        lambda: np.where(np.arange(width) < tokens, token, padding).astype(dtype),
    )
