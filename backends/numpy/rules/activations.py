"""Activations by the tanh approximation of gelu: GL, dGL, and both in one.

By its formula X is cut first, so that all its powers are finite. Here X² alone is, and only where a slope needs it: of
one row after another of 1024, 1.2 times as fast for GL, 1.05 to 1.1 for the others, whose slopes in float32 are off by
2e-7 in place of 2e-6.
"""

from __future__ import annotations

import math

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy.calls import minimum
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.shared import full_row, number, workspace
from graphir.operators.elementwise import SATURATED, activation, activation_with_slope, d_activation

_CUBIC = 0.044715
_TWICE_SQRT_2_OVER_PI = 2 * math.sqrt(2 / math.pi)


@rules.emits(activation, inplace={"Y": "X"})
def _activation(call: Calls, X: Array, Y: Array, *, kind: str) -> bool:
    if kind != "gelu_tanh":
        return False
    gate = workspace(call, Y, X)
    call(np.square, X, gate)
    _gate(call, X, gate, gate, gate)
    call(np.multiply, gate, X, Y)
    return True


@rules.emits(d_activation, inplace={"dX": "X dY"})
def _d_activation(call: Calls, X: Array, dY: Array, dX: Array, *, kind: str) -> bool:
    if kind != "gelu_tanh":
        return False
    slope = workspace(call, dX, X, dY)
    _slope(call, X, slope)
    call(np.multiply, slope, dY, dX)
    return True


@rules.emits(activation_with_slope, inplace={"Y": "X"})
def _activation_with_slope(call: Calls, X: Array, Y: Array | None, slope: Array | None, *, kind: str) -> bool:
    if kind != "gelu_tanh" or Y is None or slope is None:
        return False
    call(np.multiply, _slope(call, X, slope), X, Y)
    return True


def _slope(call: Calls, X: Array, slope: Array) -> Array:
    """Records g′(X), and returns h = σ(w), of which g(X) = h X.

    g′ = h + h (1 − h) X w′ with w′ = 2 √(2/π) (1 + 3 · 0.044715 X²), and 1 − h = e h with e = exp(−w), which loses no
    digit where h is near 1. X² is cut to where w′ is finite, and X comes last: where X is as large as numbers are,
    h (1 − h) is 0 before it, or, of an infinite e, no number, which fmax takes for 0.
    """
    gate, rise = call.scratch(X.shape, X.dtype), call.scratch(X.shape, X.dtype)
    call(np.square, X, slope)
    call(minimum, slope, full_row(call, SATURATED**2, slope), slope)
    _gate(call, X, slope, rise, gate)
    call(np.multiply, rise, gate, rise)
    call(np.multiply, rise, gate, rise)
    call(np.fmax, rise, full_row(call, 0.0, rise), rise)
    call(np.multiply, slope, number(3 * _CUBIC * _TWICE_SQRT_2_OVER_PI, X.dtype), slope)
    call(np.add, slope, number(_TWICE_SQRT_2_OVER_PI, X.dtype), slope)
    call(np.multiply, slope, rise, slope)
    call(np.multiply, slope, X, slope)
    call(np.add, slope, gate, slope)
    return gate


def _gate(call: Calls, X: Array, square: Array, e: Array, h: Array) -> None:
    """Records e = exp(−w) and h = σ(w) = 1 / (1 + e), w = 2 √(2/π) (X + 0.044715 X³), with X² in `square`.

    h is ½ (1 + tanh ½w); where e is beyond all numbers, it is 0. All three may be the same buffer.
    """
    call(np.multiply, square, number(-_CUBIC * _TWICE_SQRT_2_OVER_PI, e.dtype), e)
    call(np.add, e, number(-_TWICE_SQRT_2_OVER_PI, e.dtype), e)
    call(np.multiply, e, X, e)
    call(np.exp, e, e)
    call(np.add, e, number(1, h.dtype), h)
    call(np.divide, number(1, h.dtype), h, h)
