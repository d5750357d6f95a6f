"""Snippets of the loss: CE and dCE, what CE becomes over a split vocabulary or as figures draw it, padding, means."""

from __future__ import annotations

import math

from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.snippets import Made, snippet
from graphir.errors import InputError
from graphir.ir.operator import Place
from graphir.operators.loss import (
    average,
    cross_entropy,
    cross_entropy_of_probabilities,
    d_average,
    d_cross_entropy,
    d_cross_entropy_of_probabilities,
    d_mask_padding,
    log_sum_exp,
    mask_padding,
    token_ids,
)
from graphir.operators.special import MASKED
from graphir.operators.split_vocabulary import (
    center,
    exp_sum,
    negative_log_likelihood,
    normalize,
    pick,
    row_dot,
    row_max,
)

# -- CE ---------------------------------------------------------------------------------------------------


@snippet(log_sum_exp)
def _log_sum_exp(row: Row, Z: Expression) -> Made:
    return {"lse": _log_sum(row, Z)[0]}


def _log_sum(row: Row, Z: Expression) -> tuple[Expression, Expression]:
    """log Σ exp(Z), 0 where all of the row is masked, and Σ exp(Z − max Z)."""
    level = row.shift(row.max(Z))
    s = row.sum(row.exp(Z - level))
    return row.log(row.divisor(s)) + level, s


@snippet(cross_entropy)
def _cross_entropy(row: Row, Z: Expression, Y: Expression, *, ignore: int) -> Made:
    lse, s = _log_sum(row, Z)
    valid = row.compare(Y, "!=", ignore)
    return {"L": _loss(row, lse, s, row.pick(Z, _column(row, valid, Y)), valid), "lse": lse}


def _loss(row: Row, lse: Expression, s: Expression, picked: Expression, valid: Expression) -> Expression:
    """lse − Z[Y] where the label is valid and the row has a word; −log 0 = ∞ where the label's logit is masked."""
    loss = row.choose(row.is_masked(picked), math.inf, lse - picked)
    # NaN in lse stays visible in all rows.
    return row.choose(valid, row.choose(row.is_zero(s), 0.0, loss), lse * 0.0)


@snippet(d_cross_entropy, columns="v")
def _d_cross_entropy(row: Row, Z: Expression, lse: Expression, Y: Expression, dL: Expression, *, ignore: int) -> Made:
    weight = dL * row.number_of(row.compare(Y, "!=", ignore))
    # Nothing flows into a masked logit. To pick the label's would cost more: a wait for memory in each row.
    label = row.compare(row.column, "==", row.minus(Y, row.ramp(_first)))
    return {"dZ": (row.exp(Z - lse) - row.number_of(label & row.is_seen(Z))) * weight}


def _column(row: Row, here: Expression, column: Expression) -> Expression:
    """The column if it is `here`, else the first, which every row has."""
    return row.choose(here, column, row.leaf("integer", 0))


def _first(at: Place) -> tuple[int, dict[str, int]]:
    """The first word of the block."""
    return at.start("v"), {}


# -- CE of probabilities ----------------------------------------------------------------------------------


@snippet(cross_entropy_of_probabilities)
def _cross_entropy_of_probabilities(row: Row, P: Expression, Y: Expression, *, ignore: int) -> Made:
    valid = row.compare(Y, "!=", ignore)
    picked = _picked_where(row, valid, P, Y)
    return {"L": row.log(picked) * -1.0}


def _picked_where(row: Row, valid: Expression, P: Expression, Y: Expression) -> Expression:
    """P[Y]; 1 where the label is not valid or all of the row is 0, as it is where all logits are masked."""
    picked = row.choose(valid, row.pick(P, _column(row, valid, Y)), 1.0)
    return row.choose(row.is_zero(row.max(P)), 1.0, picked)


@snippet(d_cross_entropy_of_probabilities)
def _d_cross_entropy_of_probabilities(row: Row, P: Expression, Y: Expression, dL: Expression, *, ignore: int) -> Made:
    valid = row.compare(Y, "!=", ignore)
    weight = row.choose(row.is_zero(row.max(P)), 0.0, row.choose(valid, -1.0, 0.0))
    slope = dL * weight / _picked_where(row, valid, P, Y)
    label = row.compare(row.column, "==", _column(row, valid, Y))
    return {"dP": row.choose(label, slope, 0.0)}


# -- CE over a split vocabulary ---------------------------------------------------------------------------


@snippet(row_max, columns="v")
def _row_max(row: Row, Z: Expression) -> Made:
    return {"top": row.max(Z)}


@snippet(exp_sum, columns="v")
def _exp_sum(row: Row, Z: Expression, top: Expression) -> Made:
    return {"s": row.sum(row.exp(Z - row.shift(top)))}


@snippet(pick, columns="v")
def _pick(row: Row, Z: Expression, Y: Expression, *, ignore: int) -> Made:
    column = row.minus(Y, row.ramp(_first))
    inside = row.compare(row.leaf("integer", 0), "<=", column) & row.compare(column, "<", row.count)
    here = inside & row.compare(Y, "!=", ignore)
    return {"z": row.choose(here, row.pick(Z, _column(row, here, column)), 0.0)}


@snippet(negative_log_likelihood)
def _negative_log_likelihood(
    row: Row, s: Expression, top: Expression, z: Expression, Y: Expression, *, ignore: int
) -> Made:
    lse = row.log(row.divisor(s)) + row.shift(top)
    return {"L": _loss(row, lse, s, z, row.compare(Y, "!=", ignore)), "lse": lse}


@snippet(normalize)
def _normalize(row: Row, Z: Expression, top: Expression, s: Expression) -> Made:
    return {"P": row.exp(Z - row.shift(top)) / row.divisor(s)}


@snippet(row_dot, columns="v")
def _row_dot(row: Row, P: Expression, dP: Expression) -> Made:
    return {"c": row.sum(P * dP)}


@snippet(center)
def _center(row: Row, P: Expression, dP: Expression, c: Expression) -> Made:
    return {"dZ": (dP - c) * P}


# -- a padded vocabulary ----------------------------------------------------------------------------------


@snippet(token_ids)
def _token_ids(row: Row, T: Expression, *, v: int, ignore: int) -> Made:
    return {"Y": T}


@snippet(mask_padding, columns="v")
def _mask_padding(row: Row, Z: Expression, *, valid: int) -> Made:
    return {"Y": row.choose(_is_token(row, valid), Z, MASKED)}


@snippet(d_mask_padding, columns="v")
def _d_mask_padding(row: Row, dY: Expression, *, valid: int) -> Made:
    return {"dZ": dY * row.number_of(_is_token(row, valid))}


def _is_token(row: Row, valid: int) -> Expression:
    def beyond(at: Place) -> tuple[int, dict[str, int]]:
        if valid > at.sizes["v"]:
            raise InputError(
                f"a vocabulary of {valid} tokens does not fit into {at.sizes['v']} rows; V_pad must be at least V"
            )
        return valid - at.start("v"), {}

    return row.compare(row.column, "<", row.ramp(beyond))


# -- means ------------------------------------------------------------------------------------------------


@snippet(average, columns="r")
def _average(row: Row, X: Expression) -> Made:
    return {"Y": row.sum(X) / row.width}


@snippet(d_average)
def _d_average(row: Row, dY: Expression, *, r: int) -> Made:
    return {"dX": dY / float(r)}
