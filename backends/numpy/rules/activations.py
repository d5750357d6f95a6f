"""Activations by the tanh approximation of gelu: GL, dGL, and both in one.

By its formula X is cut first, so that all its powers are finite. Here X² alone is, and only where a slope needs it: of
one row after another of 1024, 1.6 times as fast for GL, 1.3 for both in one, 1.15 for dGL.
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
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


@rules.emits(activation, inplace={"Y": "X"})
def _activation(call: Calls, X: Array, Y: Array, *, kind: str) -> bool:
    if kind != "gelu_tanh":
        return False
    t = workspace(call, Y, X)
    call(np.square, X, t)
    _tanh(call, X, t, t)
    _halve(call, t)
    call(np.multiply, t, X, Y)
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
    """Records g′(X), and returns h = ½ (1 + t) with t = tanh u, of which g(X) = h X.

    g′ = h + ½ u′ (1 − t) (1 + t) X with u′ = √(2/π) (1 + 3 · 0.044715 X²). X² is cut to where u′ is finite, and X comes
    last: where X is as large as numbers are, 1 − t or 1 + t is 0 before it.
    """
    t, rest = call.scratch(X.shape, X.dtype), call.scratch(X.shape, X.dtype)
    call(np.square, X, slope)
    call(minimum, slope, full_row(call, SATURATED**2, slope), slope)
    _tanh(call, X, slope, t)
    call(np.multiply, slope, number(1.5 * _CUBIC * _SQRT_2_OVER_PI, X.dtype), slope)
    call(np.add, slope, number(0.5 * _SQRT_2_OVER_PI, X.dtype), slope)
    call(np.subtract, number(1, X.dtype), t, rest)
    call(np.multiply, slope, rest, slope)
    call(np.add, t, number(1, X.dtype), t)
    call(np.multiply, slope, t, slope)
    call(np.multiply, slope, X, slope)
    call(np.multiply, t, number(0.5, X.dtype), t)
    call(np.add, slope, t, slope)
    return t


def _tanh(call: Calls, X: Array, square: Array, t: Array) -> None:
    """Records t = tanh(√(2/π) (X + 0.044715 X³)), with X² in `square`; t may be the same buffer."""
    call(np.multiply, square, number(_CUBIC * _SQRT_2_OVER_PI, t.dtype), t)
    call(np.add, t, number(_SQRT_2_OVER_PI, t.dtype), t)
    call(np.multiply, t, X, t)
    call(np.tanh, t, t)


def _halve(call: Calls, t: Array) -> None:
    """Records h = ½ (1 + t) in place, in this order: twice the largest number would overflow where it meets X."""
    call(np.add, t, number(1, t.dtype), t)
    call(np.multiply, t, number(0.5, t.dtype), t)
