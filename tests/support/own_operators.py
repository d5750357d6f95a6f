"""Operators of a user's own, as models since 2020 have them: SwiGLU, rotary embeddings, an example's unit norm."""

from __future__ import annotations

import graphir as gi
from examples.custom_operator import d_unit_norm, unit_norm
from graphir.ir.operator import Operator

__all__ = ["OWN", "d_gated", "d_rotary", "d_rotary_interleaved", "d_swiglu", "d_unit_norm"]
__all__ += ["gated", "rotary", "rotary_interleaved", "swiglu", "unit_norm"]

# -- SwiGLU (Shazeer, 2020): of a dim's two halves, and of two operands ------------------------------------------


def _silu(xp: gi.Xp, X: gi.Array) -> tuple[gi.Array, gi.Array]:
    """X σ(X) and its slope σ (1 + X (1 − σ))."""
    sigma = 1 / (1 + xp.exp(-X))
    return X * sigma, sigma * (1 + X * (1 - sigma))


@gi.operator("SwiGLU", "X[*b (2 f)] -> Y[*b f]", flops=3)
def swiglu(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = silu(X₁) ⊙ X₂, X₁ and X₂ the halves of the last dim."""
    half = X.shape[-1] // 2
    return _silu(xp, X[..., :half])[0] * X[..., half:]


@swiglu.backward("dSwiGLU", "X[*b (2 f)], dY[*b f] -> dX[*b (2 f)]", linear="dY", flops=6)
def d_swiglu(xp: gi.Xp, X: gi.Array, dY: gi.Array) -> gi.Array:
    """dX = (silu'(X₁) ⊙ X₂ ⊙ dY, silu(X₁) ⊙ dY)."""
    one, other = xp.split(X, 2, axis=-1)
    gate, slope = _silu(xp, one)
    return xp.concatenate((slope * other * dY, gate * dY), axis=-1)


@gi.operator("gated", "G[*b], U[*b] -> Y[*b]", elementwise=True, linear="U", flops=6)
def gated(xp: gi.Xp, G: gi.Array, U: gi.Array) -> gi.Array:
    """Y = silu(G) ⊙ U: SwiGLU of a gate and what it lets through."""
    return _silu(xp, G)[0] * U


@gated.backward(
    "dGated",
    "G[*b], U[*b], dY[*b] -> dG[*b], dU[*b]",
    depends={"dU": "G dY"},
    elementwise=True,
    linear="dY",
    flops=12,
)
def d_gated(
    xp: gi.Xp, G: gi.Array, U: gi.Array | None, dY: gi.Array, *, only: tuple[str, ...]
) -> tuple[gi.Array | None, gi.Array | None]:
    """dG = silu'(G) ⊙ U ⊙ dY;  dU = silu(G) ⊙ dY."""
    gate, slope = _silu(xp, G)
    return slope * U * dY if "dG" in only else None, gate * dY if "dU" in only else None


# -- rotary embeddings (Su et al., 2021): the plane of two elements is turned by its place's angle ----------------

_HALVES = "{0}[*b s (2 c)], cos[s c], sin[s c] -> {1}[*b s (2 c)]"
_PAIRS = "{0}[*b s (c 2)], cos[s c], sin[s c] -> {1}[*b s (c 2)]"


def _turn_halves(xp: gi.Xp, X: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
    """Element i of the first half and element i of the second, turned by an angle of this cosine and sine."""
    half = X.shape[-1] // 2
    one, other = X[..., :half], X[..., half:]
    return xp.concatenate((one * cos - other * sin, one * sin + other * cos), axis=-1)


def _turn_pairs(xp: gi.Xp, X: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
    """Elements 2i and 2i + 1, turned by an angle of this cosine and sine."""
    one, other = X[..., 0::2], X[..., 1::2]
    return xp.stack((one * cos - other * sin, one * sin + other * cos), axis=-1).reshape(X.shape)


@gi.operator("RoPE", _HALVES.format("X", "Y"), linear="X", flops=3)
def rotary(xp: gi.Xp, X: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
    """Y [*b, S, D] = X, each plane of the elements i and i + D/2 turned by the angle of its place and of i."""
    return _turn_halves(xp, X, cos, sin)


@rotary.backward("dRoPE", _HALVES.format("dY", "dX"), linear="dY", flops=3)
def d_rotary(xp: gi.Xp, dY: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
    """dX = dY, turned back."""
    return _turn_halves(xp, dY, cos, -sin)


@gi.operator("RoPEi", _PAIRS.format("X", "Y"), linear="X", flops=3)
def rotary_interleaved(xp: gi.Xp, X: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
    """Y [*b, S, D] = X, each plane of the elements 2i and 2i + 1 turned by the angle of its place and of i."""
    return _turn_pairs(xp, X, cos, sin)


@rotary_interleaved.backward("dRoPEi", _PAIRS.format("dY", "dX"), linear="dY", flops=3)
def d_rotary_interleaved(xp: gi.Xp, dY: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
    """dX = dY, turned back."""
    return _turn_pairs(xp, dY, cos, -sin)


#: All of them, d-operators beside their operators.
OWN: tuple[Operator, ...] = tuple(
    each
    for forward in (unit_norm, swiglu, gated, rotary, rotary_interleaved)
    for each in (forward, forward.d_operator)
    if each is not None
)
