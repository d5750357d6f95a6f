"""Snippets of what is done element by element: arithmetic, activations, dropout, sums, optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphir.backends.compiled.emission import Array
from graphir.backends.effects import writes
from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.snippets import Made, snippet
from graphir.ir.operator import Place
from graphir.operators.collectives import identity
from graphir.operators.dropout import d_dropout, dropout, dropout_mask
from graphir.operators.elementwise import (
    SATURATED,
    activation,
    activation_with_slope,
    add,
    d_activation,
    d_add,
    d_exponential,
    d_multiply,
    exponential,
    multiply,
    scale,
)
from graphir.operators.loss import count_valid, d_divide, divide_by_count
from graphir.operators.shape import sum_op
from graphir.operators.special import stream_keys
from graphir.operators.update import adam, adamw, rescale, sgd, square_sum

# -- arithmetic -------------------------------------------------------------------------------------------


@snippet(add)
def _add(row: Row, X: tuple[Expression, ...]) -> Made:
    Y = X[0]
    for each in X[1:]:
        Y = Y + each
    return {"Y": Y}


@snippet(d_add)
def _d_add(row: Row, dY: Expression, *, count: int) -> Made:
    return {f"dX{i}": dY for i in range(count)}


@snippet(multiply)
def _multiply(row: Row, X: Expression, W: Expression) -> Made:
    return {"Y": X * W}


@snippet(d_multiply)
def _d_multiply(row: Row, X: Expression | None, W: Expression | None, dY: Expression) -> Made:
    return {name: other * dY for name, other in (("dX", W), ("dW", X)) if other is not None}


@snippet(scale)
def _scale(row: Row, X: Expression, *, by: float) -> Made:
    return {"Y": X * by}


@snippet(rescale)
def _rescale(row: Row, X: Expression, c: Expression) -> Made:
    return {"Y": X * c}


@snippet(exponential)
def _exponential(row: Row, X: Expression) -> Made:
    return {"Y": row.exp(X)}


@snippet(d_exponential)
def _d_exponential(row: Row, Y: Expression, dY: Expression) -> Made:
    return {"dX": Y * dY}


@snippet(identity)
def _identity(row: Row, X: Expression) -> Made:
    return {"Y": X}


@snippet(divide_by_count)
def _divide_by_count(row: Row, X: Expression, n: Expression) -> Made:
    return {"Y": X / row.maximum(n, 1.0)}


@snippet(d_divide)
def _d_divide(row: Row, n: Expression, dY: Expression) -> Made:
    return {"dX": dY / row.maximum(n, 1.0)}


# -- sums: over the dims that the output lacks ------------------------------------------------------------


@snippet(sum_op)
def _sum(row: Row, X: Expression, *, axes: tuple[int, ...], rank: int) -> Made:
    return {"Y": X}


@snippet(square_sum)
def _square_sum(row: Row, X: Expression) -> Made:
    return {"n": X * X}


@snippet(count_valid)
def _count_valid(row: Row, Y: Expression, *, ignore: int, by: int, dtype: str) -> Made:
    return {"n": row.number_of(row.compare(Y, "!=", ignore))}


# -- GL: activations --------------------------------------------------------------------------------------

_CUBIC = 0.044715
_SLOPE = 2 * math.sqrt(2 / math.pi)
_DENSITY = 1 / math.sqrt(2 * math.pi)


@snippet(activation)
def _activation(row: Row, X: Expression, *, kind: str) -> Made:
    return {"Y": _active(row, X, kind)}


def _active(row: Row, X: Expression, kind: str) -> Expression:
    """g(X)."""
    return row.maximum(X, 0.0) if kind == "relu" else X * _gate(row, X, kind)


def _gate(row: Row, X: Expression, kind: str) -> Expression:
    """What X is multiplied by: ½ (1 + tanh u) = σ(2u)."""
    if kind == "gelu":
        return row.normal(X)
    if kind == "gelu_tanh":
        X = _cut(row, X)
        return row.sigmoid(X * (_SLOPE + _SLOPE * _CUBIC * (X * X)))
    return row.sigmoid(X)


def _cut(row: Row, X: Expression) -> Expression:
    """X where gelu_tanh is not saturated: there all its powers are finite."""
    return row.maximum(row.minimum(X, SATURATED), -SATURATED)


@snippet(d_activation)
def _d_activation(row: Row, X: Expression, dY: Expression, *, kind: str) -> Made:
    return {"dX": dY * _slope(row, X, kind)}


@snippet(activation_with_slope)
def _activation_with_slope(row: Row, X: Expression, *, kind: str) -> Made:
    return {"Y": _active(row, X, kind), "slope": _slope(row, X, kind)}


def _slope(row: Row, X: Expression, kind: str) -> Expression:
    """g′(X)."""
    if kind == "relu":
        return row.number_of(row.apply("positive", X))
    gate = _gate(row, X, kind)
    if kind == "gelu":
        # Φ′ is the density.
        return gate + X * row.exp(X * X * -0.5) * _DENSITY
    # With s = σ(w): (X s)′ = s + X s (1 − s) w′.
    if kind == "gelu_tanh":
        X = _cut(row, X)
        return gate + gate * (1.0 - gate) * X * (_SLOPE + 3 * _SLOPE * _CUBIC * (X * X))
    return gate + gate * (1.0 - gate) * X


# -- dropout ----------------------------------------------------------------------------------------------

_LEVELS = 1 << 16


@writes("keys")
def write_keys(seed: Array, step: Array, key: int, keys: Array) -> None:
    """The two keys of a node's draws of this step, uint32."""
    keys[:] = stream_keys(int(seed), int(step), key, 0)


def _keep(row: Row, seed: Expression, step: Expression, p: float, operand: str) -> Expression:
    """The mask of the elements of `operand`, each numbered by its place in the global tensor."""

    def origin(at: Place) -> tuple[int, Mapping[str, int]]:
        dims = [axis.factors[0] for axis in _operand(at, operand).axes]
        starts, sizes = at.region(operand)
        first, stride, strides = 0, 1, {}
        for dim, start, size in zip(reversed(dims), reversed(starts), reversed(sizes), strict=True):
            first += start * stride
            strides[dim] = stride
            stride *= size
        return first, strides

    least = min(round(p * _LEVELS), _LEVELS - 1)
    return row.keep(seed, step, write_keys, origin, least)  # type: ignore[no-any-return]


def _operand(at: Place, name: str) -> Any:
    return next(each for each in (*at.rule.inputs, *at.rule.outputs) if each.name == name)


def _kept(row: Row, X: Expression, m: Expression, p: float) -> Expression:
    # A product, not a choice: NaN and infinity stay visible, as in the kernel of the operator.
    return X * row.choose(m, 1 / (1 - p), 0.0)


@snippet(dropout, at_run_time="key")
def _dropout(row: Row, X: Expression, seed: Expression, step: Expression, *, p: float) -> Made:
    if p == 0:
        return {"Y": X, "m": _always(row)}
    m = _keep(row, seed, step, p, "X")
    return {"Y": _kept(row, X, m, p), "m": m}


def _always(row: Row) -> Expression:
    """A condition that holds."""
    return row.compare(row.leaf("integer", 0), "==", 0)


@snippet(d_dropout)
def _d_dropout(row: Row, m: Expression, dY: Expression, *, p: float) -> Made:
    return {"dX": _kept(row, dY, m, p)}


@snippet(dropout_mask, at_run_time="key")
def _dropout_mask(row: Row, seed: Expression, step: Expression, *, p: float, dims: tuple[int, ...]) -> Made:
    return {"m": _keep(row, seed, step, p, "m") if p else _always(row)}


# -- optimizers -------------------------------------------------------------------------------------------


@snippet(sgd)
def _sgd(
    row: Row,
    W: Expression,
    dW: Expression,
    u: Expression,
    lr: Expression,
    ok: Expression | None,
    *,
    momentum: float,
    weight_decay: float,
) -> Made:
    u_new = u * momentum + dW
    if weight_decay:
        u_new = u_new + W * weight_decay
    (rate,) = row.prepare(write_rate, 1, lr)
    return _unless(row, ok, {"W_new": W - u_new * rate, "u_new": u_new}, {"W_new": W, "u_new": u})


def _unless(row: Row, ok: Expression | None, made: Made, old: Made) -> Made:
    """What an update makes, or, where it is not to happen, the old."""
    return made if ok is None else {name: row.choose(ok, each, old[name]) for name, each in made.items()}


@writes("numbers")
def write_rate(lr: Array, numbers: Array) -> None:
    """The learning rate as a number of the kernel."""
    numbers[0] = lr


@snippet(adam, adamw)
def _adam(
    row: Row,
    W: Expression,
    dW: Expression,
    m: Expression,
    v: Expression,
    step: Expression,
    lr: Expression,
    ok: Expression | None,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float | None = None,
) -> Made:
    """lr m̂ / (√v̂ + ε) = η m / (√v + ε c) with c = √(1 − β₂ᵗ), η = lr c / (1 − β₁ᵗ)."""
    m_new = m * beta1 + dW * (1 - beta1)
    v_new = v * beta2 + dW * dW * (1 - beta2)
    eta, floor = row.prepare(write_corrections, 2, step, lr, "beta1", "beta2", "epsilon")
    kept = W
    if weight_decay is not None:
        (shrink,) = row.prepare(write_shrink, 1, lr, "weight_decay")
        kept = W * shrink
    made = {"W_new": kept - m_new * eta / (row.sqrt(v_new) + floor), "m_new": m_new, "v_new": v_new}
    return _unless(row, ok, made, {"W_new": W, "m_new": m, "v_new": v})


@writes("numbers")
def write_corrections(step: Array, lr: Array, beta1: float, beta2: float, epsilon: float, numbers: Array) -> None:
    """η and ε c, with t = step + 1."""
    t = int(step) + 1
    c = (1 - beta2**t) ** 0.5
    numbers[:] = float(lr) * c / (1 - beta1**t), epsilon * c


@writes("numbers")
def write_shrink(lr: Array, weight_decay: float, numbers: Array) -> None:
    """What is left of a weight: 1 − lr · weight_decay."""
    numbers[0] = 1 - float(lr) * weight_decay
