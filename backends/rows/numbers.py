"""Snippets of what computes single numbers: ∂L/∂L, the factor that clips gradients, the loss scale, schedules."""

from __future__ import annotations

import math

from graphir.backends.compiled.emission import Array
from graphir.backends.effects import writes
from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.snippets import Made, snippet
from graphir.operators.loss import one
from graphir.operators.loss_scale import adjust_scale
from graphir.operators.update import clip_factor, is_finite, schedule


@snippet(one)
def _one(row: Row, *, dtype: str) -> Made:
    return {"dL": row.number(1.0)}


@snippet(clip_factor)
def _clip_factor(row: Row, n: Expression, s: Expression | None, *, limit: float) -> Made:
    """min(1, limit / (norm + 1e-6)) is −max(−…, −1), whose first operand may be NaN and shows."""
    norm = row.sqrt(n) if s is None else row.sqrt(n) / s
    c = row.maximum(row.number(-limit) / (norm + 1e-6), -1.0) * -1.0
    return {"c": c if s is None else c / s, "norm": norm}


@snippet(is_finite)
def _is_finite(row: Row, norm: Expression) -> Made:
    return {"ok": row.finite(norm)}


@snippet(adjust_scale)
def _adjust_scale(
    row: Row, s: Expression, good: Expression, norm: Expression, *, growth: float, backoff: float, interval: int
) -> Made:
    zero, ok, larger = row.leaf("integer", 0), row.finite(norm), s * growth
    count = row.choose(ok, row.minus(good, row.leaf("integer", -1)), zero)
    due = row.compare(row.leaf("integer", interval), "<=", count)
    grown = row.choose(due & row.finite(larger), larger, s)
    return {"s_new": row.choose(ok, grown, s * backoff), "good_new": row.choose(due, zero, count), "ok": ok}


@snippet(schedule)
def _schedule(
    row: Row, step: Expression, *, kind: str, peak: float, warmup: int, total: int, floor: float, dtype: str
) -> Made:
    function = {"constant": write_constant, "linear": write_linear, "cosine": write_cosine}[kind]
    (rate,) = row.prepare(function, 1, step, "peak", "warmup", "total", "floor")
    return {"lr": rate}


@writes("numbers")
def write_constant(step: Array, peak: float, warmup: int, total: int, floor: float, numbers: Array) -> None:
    """The rate of a constant schedule."""
    numbers[0] = _warm(int(step), peak, warmup)


@writes("numbers")
def write_linear(step: Array, peak: float, warmup: int, total: int, floor: float, numbers: Array) -> None:
    """The rate of one that falls in a line."""
    t = int(step)
    numbers[0] = _warm(t, peak, warmup) if t < warmup else floor + (peak - floor) * (1 - _done(t, warmup, total))


@writes("numbers")
def write_cosine(step: Array, peak: float, warmup: int, total: int, floor: float, numbers: Array) -> None:
    """The rate of one that falls as half a wave."""
    t = int(step)
    share = 0.5 * (1 + math.cos(math.pi * _done(t, warmup, total)))
    numbers[0] = _warm(t, peak, warmup) if t < warmup else floor + (peak - floor) * share


def _warm(t: int, peak: float, warmup: int) -> float:
    return peak * (t + 1) / warmup if t < warmup else peak


def _done(t: int, warmup: int, total: int) -> float:
    return min(1.0, (t - warmup) / (total - warmup))
