"""Rules of the loss: CE, dCE, LSE and the padding of a vocabulary, on rows of logits [*b, V].

Which column a row's label picks is known at run time only: a function of the few rows of a tile does it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, rows
from graphir.backends.effects import writes
from graphir.backends.numpy.engine import maximum, minimum, rules
from graphir.backends.numpy.rules.shared import least_score, made, number, row_column, row_sums
from graphir.ir.operator import Place
from graphir.operators.loss import (
    cross_entropy,
    d_cross_entropy,
    d_mask_padding,
    log_sum_exp,
    losses,
    mask_padding,
)
from graphir.operators.special import is_masked, masked_score


@rules.emits(cross_entropy)
def _cross_entropy(
    call: Calls, Z: Array, Y: Array, L: Array | None, lse: Array | None, *, ignore: int, at: Place
) -> Any:
    logits = rows(Z) if Z.size else None
    if logits is None:
        return False
    lse = made(call, lse, Z[..., 0])
    has_words = _record_log_sum(call, Z, lse)
    if L is not None:
        call(_write_losses, logits, Y, lse, has_words, ignore, L)
    return None


@rules.emits(log_sum_exp)
def _log_sum_exp(call: Calls, Z: Array, lse: Array) -> Any:
    if Z.size == 0:
        return False
    _record_log_sum(call, Z, lse)
    return None


def _record_log_sum(call: Calls, Z: Array, lse: Array) -> Array:
    """Records log Σ exp(Z), 0 where all of a row is masked; what it returns says which rows are not, [*b] bool."""
    powers = call.scratch(Z.shape, Z.dtype)
    level, has_words = call.scratch(lse.shape, lse.dtype), call.scratch(lse.shape, bool)
    call(np.maximum.reduce, Z, -1, None, level, False, least_score(Z))
    call(np.subtract, Z, row_column(level), powers)
    call(np.exp, powers, powers)
    row_sums(call, powers, lse)
    call(np.not_equal, lse, number(0, lse), has_words)
    # Every other sum has a term that is 1.
    call(maximum, lse, number(1, lse), lse)
    call(np.log, lse, lse)
    call(np.multiply, level, has_words, level)
    call(np.add, lse, level, lse)
    return has_words


@writes("L")
def _write_losses(logits: Array, Y: Array, lse: Array, has_words: Array, ignore: int, L: Array) -> None:
    valid = np.not_equal(Y, ignore)
    np.copyto(L, losses(np, lse, _picked(logits, Y * valid), valid & has_words))


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
    call(np.subtract, Z, row_column(lse), dZ)
    call(np.exp, dZ, dZ)
    call(_subtract_labels, gradients, columns, ones)
    call(np.multiply, dZ, row_column(weights), dZ)
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


# -- a padded vocabulary ----------------------------------------------------------------------------------


@rules.emits(mask_padding, inplace={"Y": "Z"})
def _mask_padding(call: Calls, Z: Array, Y: Array, *, valid: int, at: Place) -> Any:
    if valid > at.sizes["v"]:
        return False  # the kernel says why
    call(minimum, Z, _columns(call, Z, valid - at.start("v"), math.inf, masked_score(Z.dtype)), Y)
    return None


@rules.emits(d_mask_padding, inplace={"dZ": "dY"})
def _d_mask_padding(call: Calls, dY: Array, dZ: Array, *, valid: int, at: Place) -> None:
    call(np.multiply, dY, _columns(call, dY, valid - at.start("v"), 1, 0), dZ)


def _columns(call: Calls, Z: Array, tokens: int, token: float, padding: float) -> Array:
    """[v]: `token` in the first `tokens` columns of Z, `padding` in the others."""
    width = Z.shape[-1]
    return call.constant(_two_parts, width, min(max(tokens, 0), width), token, padding, Z.dtype)


def _two_parts(width: int, first: int, token: float, padding: float, dtype: np.dtype[Any]) -> Array:
    return np.where(np.arange(width) < first, token, padding).astype(dtype)
