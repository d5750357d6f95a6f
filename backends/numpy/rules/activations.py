"""Activations and their slopes: GL, dGL, and both in one.

By their formula gelu's erf is a quotient of polynomials, and each power of X a pass. Here h is ½ (1 + t) of a
hyperbolic tangent t: Φ(X) with t = tanh u(X) for gelu in either form, σ(X) with t = tanh ½X. It never overflows, and
tanh has a vector loop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy.calls import maximum, minimum
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.shared import full_row, number, polynomial, workspace
from graphir.operators.elementwise import SATURATED, activation, activation_with_slope, d_activation

_CUBIC = 0.044715
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
# Φ(x) = ½ (1 + tanh(x p(x²))) for the normal distribution Φ: p by least squares, reweighted towards the smallest
# largest error of Φ, which is 3e-8 up to |x| = 5.6 and beyond, where x² stays: half a unit in the last place of
# float32. Fitting u in place of Φ leaves the tanh to tend to ±1, so that no case must be told apart.
_NORMAL = (
    1.7561730628642536e-09, -1.322634162180161e-07, 3.96474529499981e-06, -5.5306198027251513e-05,
    -3.259496640420918e-05, 0.0363330845666195, 0.7978849414618159,
)  # fmt: skip
_NORMAL_LIMIT = 5.6**2
_DENSITY = 1 / math.sqrt(2 * math.pi)


@rules.emits(activation, inplace={"Y": "X"})
def _activation(call: Calls, X: Array, Y: Array, *, kind: str) -> Any:
    if kind == "relu":
        call(maximum, X, full_row(call, 0, X), Y)
    elif kind == "silu":
        # X σ(X) = h t + h with h = X / 2.
        h = call.scratch(X.shape, X.dtype)
        call(np.multiply, X, number(0.5, X.dtype), h)
        call(np.tanh, h, Y)
        call(np.multiply, Y, h, Y)
        call(np.add, Y, h, Y)
    elif kind == "gelu" and X.dtype != np.float32:
        return False
    else:
        t = workspace(call, Y, X)
        if kind == "gelu":
            square = call.scratch(X.shape, X.dtype)
            call(np.square, X, square)
            _normal_tanh(call, X, square, t)
        else:
            call(np.square, X, t)
            _cubic_tanh(call, X, t, t)
        _halve(call, t)
        call(np.multiply, t, X, Y)
    return None


def _normal_tanh(call: Calls, X: Array, square: Array, t: Array) -> None:
    """Records t = erf(X / √2), with X² in `square`, which is cut off there: float32 alone."""
    call(minimum, square, full_row(call, _NORMAL_LIMIT, square), square)
    polynomial(call, square, _NORMAL, t)
    call(np.multiply, t, X, t)
    call(np.tanh, t, t)


def _cubic_tanh(call: Calls, X: Array, square: Array, t: Array) -> None:
    """Records t = tanh(√(2/π) (X + 0.044715 X³)), with X² in `square`; t may be the same buffer."""
    call(np.multiply, square, number(_CUBIC * _SQRT_2_OVER_PI, t.dtype), t)
    call(np.add, t, number(_SQRT_2_OVER_PI, t.dtype), t)
    call(np.multiply, t, X, t)
    call(np.tanh, t, t)


@rules.emits(d_activation, inplace={"dX": "X dY"})
def _d_activation(call: Calls, X: Array, dY: Array, dX: Array, *, kind: str) -> Any:
    if kind == "gelu" and X.dtype != np.float32:
        return False
    slope = workspace(call, dX, X, dY)
    _SLOPES[kind](call, X, slope)
    call(np.multiply, slope, dY, dX)
    return None


def _gelu_slope(call: Calls, X: Array, slope: Array) -> Array:
    # g′ = h + X φ with the density φ = exp(−½ X²) / √(2π).
    square, density = call.scratch(X.shape, X.dtype), call.scratch(X.shape, X.dtype)
    call(np.square, X, square)
    call(np.multiply, square, number(-0.5, X.dtype), density)
    call(np.exp, density, density)
    call(np.multiply, density, X, density)
    call(np.multiply, density, number(_DENSITY, X.dtype), density)
    h = call.scratch(X.shape, X.dtype)
    _normal_tanh(call, X, square, h)
    _halve(call, h)
    call(np.add, h, density, slope)
    return h


def _gelu_tanh_slope(call: Calls, X: Array, slope: Array) -> Array:
    # g′ = h + ½ u′ (1 − t) (1 + t) X with u′ = √(2/π) (1 + 3 · 0.044715 X²). X² is cut to where u′ is finite, and X
    # comes last: where X is as large as numbers are, 1 − t or 1 + t is 0 before it.
    t, rest = call.scratch(X.shape, X.dtype), call.scratch(X.shape, X.dtype)
    call(np.square, X, slope)
    call(minimum, slope, full_row(call, SATURATED**2, slope), slope)
    _cubic_tanh(call, X, slope, t)
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


def _halve(call: Calls, t: Array) -> None:
    """Records h = ½ (1 + t) in place, in this order: twice the largest number would overflow where it meets X."""
    call(np.add, t, number(1, t.dtype), t)
    call(np.multiply, t, number(0.5, t.dtype), t)


def _relu_slope(call: Calls, X: Array, slope: Array) -> None:
    positive = call.scratch(X.shape, bool)
    call(np.greater, X, number(0, X.dtype), positive)
    call(np.copyto, slope, positive)


def _silu_slope(call: Calls, X: Array, slope: Array) -> Array:
    # g′ = h (1 + X (1 − h)).
    h = call.scratch(X.shape, X.dtype)
    call(np.multiply, X, number(0.5, X.dtype), h)
    call(np.tanh, h, h)
    _halve(call, h)
    call(np.subtract, number(1, X.dtype), h, slope)
    call(np.multiply, slope, X, slope)
    call(np.add, slope, number(1, X.dtype), slope)
    call(np.multiply, slope, h, slope)
    return h


#: What records g′(X); of all but relu, what it hands back is h = ½ (1 + t), of which g(X) = h X.
_SLOPES = {"gelu": _gelu_slope, "gelu_tanh": _gelu_tanh_slope, "relu": _relu_slope, "silu": _silu_slope}


@rules.emits(activation_with_slope, inplace={"Y": "X"})
def _activation_with_slope(call: Calls, X: Array, Y: Array | None, slope: Array | None, *, kind: str) -> Any:
    if Y is None or slope is None or (kind == "gelu" and X.dtype != np.float32):
        return False
    h = _SLOPES[kind](call, X, slope)
    if h is None:
        call(maximum, X, full_row(call, 0, X), Y)
    else:
        call(np.multiply, h, X, Y)
    return None
