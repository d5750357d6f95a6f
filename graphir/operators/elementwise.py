"""Elementwise arithmetic and activations: +, ⊙, scaling, GL (B 4.2.2 and 4.4.5), GLU, CAP."""

from __future__ import annotations

import math

from graphir.errors import TypeCheckError
from graphir.ir.dims import dim
from graphir.ir.operator import Array, GradientContext, Size, Xp, operator
from graphir.ir.traits import SCALED_BY_ROOT, SOFT_CAP
from graphir.ir.value import Value
from graphir.operators.special import erf

# -- +: addition ------------------------------------------------------------------------------------------


@operator(
    "add",
    "X...[*b] -> Y[*b]",
    symbol="+",
    infix=True,
    elementwise=True,
    jointly_linear=True,
    associative=True,
    flops=1,
)
def add(xp: Xp, *X: Array) -> Array:
    """Y = X0 + X1 + …: bias addition, residuals, gradients of several uses. All of one shape; BC widens."""
    if len(X) == 1:
        return X[0]
    Y = X[0] + X[1]
    for each in X[2:]:
        Y = Y + each
    return Y


#: More than anybody adds up at once; each has a gradient, to be named by a node's row.
_MOST_TERMS = 1 << 14


def _d_add_signature(count: int) -> str:
    if not 1 <= count <= _MOST_TERMS:
        raise TypeCheckError(f"count={count} gradients of a sum; there are 1 to {_MOST_TERMS:,}: add up in groups")
    return f"dY[*b] -> {', '.join(f'dX{i}[*b]' for i in range(count))}"


@add.backward(
    "dAddB",
    _d_add_signature,
    elementwise=True,
    linear="dY",
    identity=lambda attributes: {f"dX{i}": "dY" for i in range(attributes["count"])},
    examples=({"count": 2},),
)
def d_add(xp: Xp, dY: Array, *, count: int) -> tuple[Array, ...]:
    """dX0 = dX1 = … = dY, each under its own name (dAddB in A 1.5.3); no element is copied."""
    return (dY,) * count


@add.gradient
def _split_gradient(context: GradientContext) -> list[Value | None]:
    return context.d_node(d_add, count=len(context.inputs))


# -- products ---------------------------------------------------------------------------------------------


@operator("mul", "X[*b], W[*b] -> Y[*b]", symbol="⊙", infix=True, elementwise=True, linear="X W", flops=1)
def multiply(xp: Xp, X: Array, W: Array) -> Array:
    """Y = X ⊙ W, element by element."""
    return X * W


@multiply.backward(
    "dMul",
    "X[*b], W[*b], dY[*b] -> dX[*b], dW[*b]",
    symbol="d⊙",
    elementwise=True,
    depends={"dX": "W dY", "dW": "X dY"},
    flops=2,
)
def d_multiply(
    xp: Xp, X: Array | None, W: Array | None, dY: Array, *, only: tuple[str, ...]
) -> tuple[Array | None, Array | None]:
    """dX = W ⊙ dY, dW = X ⊙ dY."""
    return (W * dY if "dX" in only else None), (X * dY if "dW" in only else None)


@operator("scale", "X[*b] -> Y[*b]", symbol="×", elementwise=True, linear="X", flops=1, examples=({"by": -1.5},))
def scale(xp: Xp, X: Array, *, by: float) -> Array:
    """Y = by · X, for a constant `by`. Backward: the same."""
    return X * X.dtype.type(by)


@scale.gradient
def _d_scale(context: GradientContext) -> list[Value]:
    return [scale(context.gradient, by=context.attributes["by"], name=context.names[0])]


_WIDTH = dim("D")


@operator(
    "root_scale",
    "X[*b] -> Y[*b]",
    symbol="×",
    computes=SCALED_BY_ROOT,
    elementwise=True,
    linear="X",
    flops=1,
    examples=({"width": _WIDTH}, {"width": _WIDTH, "divide": True}),
)
def scale_by_root(xp: Xp, X: Array, *, width: Size, divide: bool = False) -> Array:
    """Y = √width · X, or X / √width, for a dim `width`. Backward: the same."""
    return X * X.dtype.type(width ** (-0.5 if divide else 0.5))


@scale_by_root.gradient
def _d_scale_by_root(context: GradientContext) -> list[Value]:
    return [scale_by_root(context.gradient, name=context.names[0], **context.attributes)]


@operator("exp", "X[*b] -> Y[*b]", elementwise=True, flops=1)
def exponential(xp: Xp, X: Array) -> Array:
    """Y = exp(X)."""
    return xp.exp(X)


@exponential.backward("dExp", "Y[*b], dY[*b] -> dX[*b]", symbol="dexp", elementwise=True, flops=1)
def d_exponential(xp: Xp, Y: Array, dY: Array) -> Array:
    """dX = Y ⊙ dY."""
    return Y * dY


@operator(
    "zeros", "X[*b] -> Y[*b]", symbol="0", elementwise=True, shape_only=True, no_gradient="zeros depend on nothing"
)
def zeros(xp: Xp, X: Array) -> Array:
    """Y: zeros of the shape of X; the gradient of an output that the loss does not depend on."""
    return xp.zeros_like(X)


# -- GL: activations --------------------------------------------------------------------------------------

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
#: Where the tanh of gelu_tanh is ±1 in every dtype, and X² is a float16 yet: it is computed of X cut to this.
SATURATED = 40.0
KINDS = ("gelu", "gelu_tanh", "relu", "silu")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise TypeCheckError(f"kind={kind!r} is no activation; choose from {', '.join(KINDS)}")


def _activation_signature(kind: str) -> str:
    _check_kind(kind)
    return "X[*b] -> Y[*b]"


def _gate(xp: Xp, X: Array, kind: str) -> Array:
    """What X is multiplied by: Φ(X), or σ(w) = ½ (1 + tanh ½w), which never overflows, as exp(−w) does."""
    if kind == "gelu":
        return 0.5 * (1 + erf(xp, X * _SQRT_HALF))
    if kind == "gelu_tanh":
        X = _cut(xp, X)
        return 0.5 * (1 + xp.tanh((X * X * _CUBIC + 1) * X * _SQRT_2_OVER_PI))
    return 0.5 * (1 + xp.tanh(0.5 * X))


def _slope(xp: Xp, X: Array, kind: str) -> Array:
    """g′(X)."""
    gate = _gate(xp, X, kind)
    if kind == "gelu":
        # Φ′ is the density.
        return gate + X * xp.exp(-0.5 * X * X) * (1 / math.sqrt(2 * math.pi))
    # (X σ(w))′ = σ(w) + σ(w) (1 − σ(w)) X w′; of gelu_tanh w′ = 2 √(2/π) (1 + 3 · 0.044715 X²), and beyond the cut,
    # where X² may be infinite, 1 − σ(w) or σ(w) is 0.
    rise = gate * (1 - gate)
    if kind == "gelu_tanh":
        X = _cut(xp, X)
        rise = rise * ((X * X * (3 * _CUBIC) + 1) * (2 * _SQRT_2_OVER_PI))
    return gate + rise * X


_EXAMPLES = tuple({"kind": kind} for kind in KINDS)


@operator("GL", _activation_signature, elementwise=True, with_slope="GLs", flops=10, examples=_EXAMPLES)
def activation(xp: Xp, X: Array, *, kind: str = "gelu") -> Array:
    """Y = g(X). gelu: X Φ(X) with the normal distribution Φ; gelu_tanh: its tanh approximation
    (Hendrycks and Gimpel, 2016); relu: max(X, 0); silu: X σ(X).

    Of any finite X it is finite, and so is g′; −∞ times a gate of 0 is NaN, as in PyTorch.
    """
    return xp.maximum(X, 0) if kind == "relu" else _as(X, X * _gate(xp, X, kind))


def _as(X: Array, Y: Array) -> Array:
    """Y in the dtype of X: NumPy's functions make float32 of bfloat16."""
    return Y.astype(X.dtype, copy=False)


def _cut(xp: Xp, X: Array) -> Array:
    return xp.clip(X, X.dtype.type(-SATURATED), X.dtype.type(SATURATED))


def _d_activation_signature(kind: str) -> str:
    _check_kind(kind)
    return "X[*b], dY[*b] -> dX[*b]"


@activation.backward("dGL", _d_activation_signature, elementwise=True, flops=16, examples=({"kind": "gelu"},))
def d_activation(xp: Xp, X: Array, dY: Array, *, kind: str = "gelu") -> Array:
    """dX = dY ⊙ g′(X)."""
    return dY * (X > 0) if kind == "relu" else _as(X, dY * _slope(xp, X, kind))


def _sloped_signature(kind: str) -> str:
    _check_kind(kind)
    return "X[*b] -> Y[*b], slope[*b]"


@operator(
    "GLs",
    _sloped_signature,
    symbol="GL′",
    auxiliary="slope",
    elementwise=True,
    no_gradient="it stands for GL in graphs that are differentiated already",
    flops=20,
    examples=_EXAMPLES,
)
def activation_with_slope(xp: Xp, X: Array, *, kind: str = "gelu") -> tuple[Array, Array]:
    """Y = g(X) and slope = g′(X), which have the costly part in common."""
    slope = (X > 0).astype(X.dtype) if kind == "relu" else _as(X, _slope(xp, X, kind))
    return activation.kernel(xp, X, kind=kind), slope


# -- GLU: an activation as a gate ---------------------------------------------------------------------------


def _gated_signature(kind: str) -> str:
    _check_kind(kind)
    return "gate[*b], up[*b] -> Y[*b]"


@operator("GLU", _gated_signature, elementwise=True, linear="up", flops=11, examples=_EXAMPLES)
def gated(xp: Xp, gate: Array, up: Array, *, kind: str = "silu") -> Array:
    """Y = g(gate) ⊙ up, g an activation as GL has it: SwiGLU with silu, GeGLU with gelu (Shazeer, 2020)."""
    return activation.kernel(xp, gate, kind=kind) * up


def _d_gated_signature(kind: str) -> str:
    _check_kind(kind)
    return "gate[*b], up[*b], dY[*b] -> dgate[*b], dup[*b]"


@gated.backward("dGLU", _d_gated_signature, elementwise=True, depends={"dup": "gate dY"}, flops=24, examples=_EXAMPLES)
def d_gated(
    xp: Xp, gate: Array, up: Array | None, dY: Array, *, kind: str = "silu", only: tuple[str, ...]
) -> tuple[Array | None, Array | None]:
    """dgate = up ⊙ dY ⊙ g′(gate), dup = g(gate) ⊙ dY."""
    dgate = dup = None
    if "dgate" in only:
        assert up is not None
        dgate = d_activation.kernel(xp, gate, dY * up, kind=kind)
    if "dup" in only:
        dup = activation.kernel(xp, gate, kind=kind) * dY
    return dgate, dup


# -- CAP: scores and logits within bounds -------------------------------------------------------------------


def _check_cap(cap: float) -> None:
    if not 0 < cap < math.inf:
        raise TypeCheckError(f"cap={cap} must be positive and finite: results lie within ±cap")


def _capped_signature(cap: float) -> str:
    _check_cap(cap)
    return "X[*b] -> Y[*b]"


@operator("CAP", _capped_signature, computes=SOFT_CAP, elementwise=True, flops=7, examples=({"cap": 1.5},))
def soft_cap(xp: Xp, X: Array, *, cap: float) -> Array:
    """Y = cap · tanh(X / cap), within ±cap and close to X near 0 (Gemma 2)."""
    return xp.tanh(X * X.dtype.type(1 / cap)) * X.dtype.type(cap)


def _d_capped_signature(cap: float) -> str:
    _check_cap(cap)
    return "Y[*b], dY[*b] -> dX[*b]"


@soft_cap.backward("dCAP", _d_capped_signature, elementwise=True, vanishes="dY", flops=4, examples=({"cap": 1.5},))
def d_soft_cap(xp: Xp, Y: Array, dY: Array, *, cap: float) -> Array:
    """dX = dY ⊙ (1 − (Y / cap)²)."""
    share = Y * Y.dtype.type(1 / cap)
    return dY * (1 - share * share)
