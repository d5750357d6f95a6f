"""Snippets of the loss: CE and dCE, what CE becomes over a split vocabulary or as figures draw it, padding, means."""

from __future__ import annotations

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
    return {"lse": _lse(row, Z)}


def _lse(row: Row, Z: Expression) -> Expression:
    top = row.max(Z)
    return row.log(row.sum(row.exp(Z - top))) + top


@snippet(cross_entropy)
def _cross_entropy(row: Row, Z: Expression, Y: Expression, *, ignore: int) -> Made:
    lse = _lse(row, Z)
    valid = row.compare(Y, "!=", ignore)
    return {"L": (lse - row.pick(Z, _column(row, valid, Y))) * row.number_of(valid), "lse": lse}


@snippet(d_cross_entropy, columns="v")
def _d_cross_entropy(row: Row, Z: Expression, lse: Expression, Y: Expression, dL: Expression, *, ignore: int) -> Made:
    weight = dL * row.number_of(row.compare(Y, "!=", ignore))
    return {"dZ": (row.exp(Z - lse) - row.number_of(_is_label(row, Y))) * weight}


def _column(row: Row, here: Expression, column: Expression) -> Expression:
    """The column if it is `here`, else the first, which every row has."""
    return row.choose(here, column, row.leaf("integer", 0))


def _is_label(row: Row, Y: Expression) -> Expression:
    return row.compare(row.column, "==", row.minus(Y, row.ramp(_first)))


def _first(at: Place) -> tuple[int, dict[str, int]]:
    """The first word of the block."""
    return at.start("v"), {}


# -- CE of probabilities ----------------------------------------------------------------------------------


@snippet(cross_entropy_of_probabilities)
def _cross_entropy_of_probabilities(row: Row, P: Expression, Y: Expression, *, ignore: int) -> Made:
    valid = row.compare(Y, "!=", ignore)
    return {"L": row.log(row.choose(valid, row.pick(P, _column(row, valid, Y)), 1.0)) * -1.0}


@snippet(d_cross_entropy_of_probabilities)
def _d_cross_entropy_of_probabilities(row: Row, P: Expression, Y: Expression, dL: Expression, *, ignore: int) -> Made:
    valid = row.compare(Y, "!=", ignore)
    slope = dL * row.choose(valid, -1.0, 0.0) / row.pick(P, _column(row, valid, Y))
    label = row.compare(row.column, "==", _column(row, valid, Y))
    return {"dP": row.choose(label, slope, 0.0)}


# -- CE over a split vocabulary ---------------------------------------------------------------------------


@snippet(row_max, columns="v")
def _row_max(row: Row, Z: Expression) -> Made:
    return {"top": row.max(Z)}


@snippet(exp_sum, columns="v")
def _exp_sum(row: Row, Z: Expression, top: Expression) -> Made:
    return {"s": row.sum(row.exp(Z - top))}


@snippet(pick, columns="v")
def _pick(row: Row, Z: Expression, Y: Expression, *, ignore: int) -> Made:
    column = row.minus(Y, row.ramp(_first))
    inside = row.compare(row.leaf("integer", 0), "<=", column) & row.compare(column, "<", row.count)
    here = inside & row.compare(Y, "!=", ignore)
    return {"z": row.pick(Z, _column(row, here, column)) * row.number_of(here)}


@snippet(negative_log_likelihood)
def _negative_log_likelihood(
    row: Row, s: Expression, top: Expression, z: Expression, Y: Expression, *, ignore: int
) -> Made:
    lse = row.log(s) + top
    return {"L": (lse - z) * row.number_of(row.compare(Y, "!=", ignore)), "lse": lse}


@snippet(normalize)
def _normalize(row: Row, Z: Expression, top: Expression, s: Expression) -> Made:
    return {"P": row.exp(Z - top) / s}


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
