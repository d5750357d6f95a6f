"""Snippets of what needs its whole row: LN and dLN, SM, S, dS and dSM."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.snippets import Made, snippet
from graphir.ir.operator import Place
from graphir.operators.attention import d_scale_mask, d_softmax, scale_mask, softmax, softmax_rows
from graphir.operators.normalization import d_layer_norm, layer_norm
from graphir.operators.special import MASKED

# -- LN ---------------------------------------------------------------------------------------------------


@snippet(layer_norm)
def _layer_norm(row: Row, X: Expression, gamma: Expression, beta: Expression, *, epsilon: float) -> Made:
    mean = row.sum(X) / row.width
    N = X - mean
    rstd = 1.0 / row.sqrt(row.sum(N * N) / row.width + epsilon)
    return {"H": N * rstd * gamma + beta, "mean": mean, "rstd": rstd}


@snippet(d_layer_norm)
def _d_layer_norm(
    row: Row,
    X: Expression | None,
    gamma: Expression | None,
    mean: Expression | None,
    rstd: Expression | None,
    dH: Expression,
) -> Made:
    """dX = r (g − mean(g) − X̂ mean(g ⊙ X̂)) with X̂ = (X − μ) r and g = γ ⊙ dH; dγ = Σ dH ⊙ X̂, dβ = Σ dH."""
    made = {"dbeta": dH}
    if X is not None and mean is not None and rstd is not None:
        normal = (X - mean) * rstd
        made["dgamma"] = dH * normal
        if gamma is not None:
            g = dH * gamma
            level, along = row.sum(g) / row.width, row.sum(g * normal) / row.width
            made["dX"] = (g - level - normal * along) * rstd
    return made


# -- SM, S ------------------------------------------------------------------------------------------------


@snippet(scale_mask, columns="k")
def _scale_mask(row: Row, A: Expression, keep: Expression | None, *, width: int, causal: bool, mask: str) -> Made:
    Z, seen = A * (1 / math.sqrt(width)), _seen(row, keep, causal)
    return {"Z": Z if seen is None else row.choose(seen, Z, MASKED)}


@snippet(d_scale_mask, columns="k")
def _d_scale_mask(row: Row, dZ: Expression, keep: Expression | None, *, width: int, causal: bool, mask: str) -> Made:
    dA, seen = dZ * (1 / math.sqrt(width)), _seen(row, keep, causal)
    return {"dA": dA if seen is None else dA * row.number_of(seen)}


def _seen(row: Row, keep: Expression | None, causal: bool) -> Expression | None:
    """Whether the row's query sees the key in a column; None if it sees all."""
    if not causal:
        return keep
    seen = row.compare(row.column, "<=", row.ramp(_query))
    return seen if keep is None else seen & keep


def _query(at: Place) -> tuple[int, Mapping[str, int]]:
    """The query's number, counted from the first key of the block."""
    return at.start("q") - at.start("k"), {"q": 1}


@snippet(softmax, softmax_rows)
def _softmax(row: Row, Z: Expression) -> Made:
    top = row.max(Z)
    powers = row.exp(Z - row.shift(top))
    s = row.sum(powers)
    return {"P": powers * (1.0 / row.divisor(s)), "top": top, "s": s}


@snippet(d_softmax)
def _d_softmax(row: Row, P: Expression, dP: Expression) -> Made:
    return {"dZ": P * (dP - row.sum(P * dP))}
