"""Attention's own operators: scale and mask SM, softmax S, with dSM and dS (A 1.3.3, B 4.4.3 and 4.4.4).

Scores at or below −1e30, −∞ included, are *masked*: keys of probability 0, whoever put that number there. A row all of
whose scores are masked, a query that sees no key, has P = 0 and dZ = 0, as PyTorch's attention has it.

S that keeps its rows' statistics is for graphs that make P again: see `passes.keep_softmax_statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphir.errors import TypeCheckError
from graphir.ir.dims import dim
from graphir.ir.operator import Array, Place, Size, Xp, operator
from graphir.ir.traits import MASKED_SCORES, SEEN_SCORES, SOFTMAX, SOFTMAX_ROWS
from graphir.operators.special import divisor, einsum, masked_score, shift

# -- SM: scale and mask -----------------------------------------------------------------------------------

_MASK_OPERAND = {
    "none": "",
    "given": ", keep[q k] bool",
    "padding": ", keep[b k] bool",
    "each": ", keep[b q k] bool",
}
MASKS = tuple(_MASK_OPERAND)


def _mask_operand(mask: str) -> str:
    if mask not in MASKS:
        raise TypeCheckError(f"mask={mask!r} is none of {', '.join(MASKS)}")
    return _MASK_OPERAND[mask]


def _scale_mask_signature(mask: str) -> str:
    return f"A[b *h q k]{_mask_operand(mask)} -> Z[b *h q k]"


def _allowed(xp: Xp, keep: Array | None, causal: bool, mask: str, shape: tuple[int, ...], at: Place) -> Array | None:
    """Which scores count, broadcastable to `shape` [b, *h, q, k]; None if all do."""
    allowed = None
    if keep is not None:
        # A padding mask [b, k] holds for every head and query, one for each b for every head, a given one for both.
        allowed = keep if mask == "given" else _over_heads(keep, len(shape), "bqk" if mask == "each" else "bk")
    if causal:
        q = xp.arange(shape[-2]) + at.start("q")
        k = xp.arange(shape[-1]) + at.start("k")
        triangle = q[:, None] >= k[None, :]
        allowed = triangle if allowed is None else allowed & triangle
    return allowed


def _over_heads(X: Array, rank: int, dims: str) -> Array:
    """X with dims b, q and k, or some of them, beside scores [b, *h, q, k] of that rank."""
    given = dict(zip(dims, X.shape, strict=True))
    return X.reshape(given["b"], *(1,) * (rank - 3), given.get("q", 1), given.get("k", 1))


def _is_causal(attributes: Mapping[str, Any]) -> bool:
    return bool(attributes["causal"])


_D_H = dim("D_h")
_SM_EXAMPLES = (
    {"width": _D_H},
    {"width": _D_H, "causal": True},
    {"width": _D_H, "mask": "given"},
    {"width": _D_H, "mask": "padding", "causal": True},
    {"width": _D_H, "mask": "each"},
)


@operator("SM", _scale_mask_signature, computes=MASKED_SCORES, flops=2, causal=_is_causal, examples=_SM_EXAMPLES)
def scale_mask(
    xp: Xp,
    A: Array,
    keep: Array | None = None,
    *,
    width: Size,
    causal: bool = False,
    mask: str = "none",
    shape: tuple[int, ...],
    at: Place,
) -> Array:
    """Z [B, N_H, S, S] = A / √width where a query may see a key, −1e30 where not; width is D_h.

    `causal`: query q sees keys k ≤ q. `mask="padding"`: `keep` [B, S] says which keys are tokens;
    `mask="given"`: `keep` [S, S] says which query may see which key, `mask="each"` by a `keep` [B, S, S] for each
    b of its own. Any of them together with `causal` means and.
    To softmax, and whoever else reads scores, −1e30 and what lies below it are keys of probability 0.
    """
    Z = A * A.dtype.type(1 / math.sqrt(width))
    allowed = _allowed(xp, keep, causal, mask, shape, at)
    return Z if allowed is None else xp.where(allowed, Z, masked_score(Z.dtype))


def _d_scale_mask_signature(mask: str) -> str:
    return f"dZ[b *h q k]{_mask_operand(mask)} -> dA[b *h q k]"


@scale_mask.backward("dSM", _d_scale_mask_signature, flops=2, linear="dZ", causal=_is_causal, examples=_SM_EXAMPLES)
def d_scale_mask(
    xp: Xp,
    dZ: Array,
    keep: Array | None = None,
    *,
    width: Size,
    causal: bool = False,
    mask: str = "none",
    shape: tuple[int, ...],
    at: Place,
) -> Array:
    """dA = dZ / √width where a query may see a key, 0 where not; none flows into the mask."""
    dA = dZ * dZ.dtype.type(1 / math.sqrt(width))
    allowed = _allowed(xp, keep, causal, mask, shape, at)
    return dA if allowed is None else dA * allowed


# -- SM by positions --------------------------------------------------------------------------------------


def _by_position_operands(window: int, mask: str, segments: bool) -> str:
    if window < 0:
        raise TypeCheckError(f"window={window} must be positive, a number of keys, or 0 for none")
    if mask not in ("none", "padding"):
        raise TypeCheckError(f"mask={mask!r} is neither none nor padding; what positions do not say, scale_mask takes")
    ids = ", q_segment[b q] int, k_segment[b k] int" if segments else ""
    return f"q_position[b q] int, k_position[b k] int{_mask_operand(mask)}{ids}"


def _by_position_signature(window: int, mask: str, segments: bool) -> str:
    return f"A[b *h q k], {_by_position_operands(window, mask, segments)} -> Z[b *h q k]"


def _seen(
    rank: int, q: Array, k: Array, keep: Array | None, q_segment: Array | None, k_segment: Array | None, window: int
) -> Array:
    """Which scores of `rank` dims [b, *h, q, k] count: of keys at the query's position or before it, …"""
    q, k = _over_heads(q, rank, "bq"), _over_heads(k, rank, "bk")
    seen = k <= q
    if window:
        # Not q − k: a key that is not written yet may be at the largest integer there is, or the least.
        seen = seen & (q - window < k)
    if keep is not None:
        seen = seen & _over_heads(keep, rank, "bk")
    if q_segment is not None:
        seen = seen & (_over_heads(q_segment, rank, "bq") == _over_heads(k_segment, rank, "bk"))
    return seen


def _sees(xp: Xp, operands: Mapping[str, Array], attributes: Mapping[str, Any]) -> Array:
    """As `_seen`, [b, q, k]."""
    q, k, keep = operands["q_position"], operands["k_position"], operands.get("keep")
    return _seen(3, q, k, keep, operands.get("q_segment"), operands.get("k_segment"), attributes["window"])


_BY_POSITION_EXAMPLES = (
    {"width": _D_H},
    {"width": _D_H, "window": 2},
    {"width": _D_H, "mask": "padding"},
    {"width": _D_H, "window": 3, "mask": "padding", "segments": True},
)


@operator(
    "SMP",
    _by_position_signature,
    symbol="SM",
    sees=_sees,
    computes=SEEN_SCORES,
    flops=2,
    examples=_BY_POSITION_EXAMPLES,
)
def scale_mask_by_position(
    xp: Xp,
    A: Array,
    q_position: Array,
    k_position: Array,
    keep: Array | None = None,
    q_segment: Array | None = None,
    k_segment: Array | None = None,
    *,
    width: Size,
    window: int = 0,
    mask: str = "none",
    segments: bool = False,
) -> Array:
    """Z [B, N_H, S, S_k] = A / √width where a query may see a key, −1e30 where not, by where both stand in their text.

    A query at `q_position` [B, S] sees keys whose `k_position` [B, S_k] is no later, and less than `window` before it,
    if that is not 0. `mask="padding"`: of these those that `keep` [B, S_k] has. `segments`: of these those of its own
    document, by `q_segment` [B, S] and `k_segment` [B, S_k]. Positions are in any order. A row of a cache that is not
    written yet is given a position that no query has reached.
    """
    seen = _seen(A.ndim, q_position, k_position, keep, q_segment, k_segment, window)
    return xp.where(seen, A * A.dtype.type(1 / math.sqrt(width)), masked_score(A.dtype))


def _d_by_position_signature(window: int, mask: str, segments: bool) -> str:
    return f"dZ[b *h q k], {_by_position_operands(window, mask, segments)} -> dA[b *h q k]"


@scale_mask_by_position.backward(
    "dSMP", _d_by_position_signature, symbol="dSM", sees=_sees, flops=2, linear="dZ", examples=_BY_POSITION_EXAMPLES
)
def d_scale_mask_by_position(
    xp: Xp,
    dZ: Array,
    q_position: Array,
    k_position: Array,
    keep: Array | None = None,
    q_segment: Array | None = None,
    k_segment: Array | None = None,
    *,
    width: Size,
    window: int = 0,
    mask: str = "none",
    segments: bool = False,
) -> Array:
    """dA = dZ / √width where a query may see a key, 0 where not."""
    seen = _seen(dZ.ndim, q_position, k_position, keep, q_segment, k_segment, window)
    return dZ * dZ.dtype.type(1 / math.sqrt(width)) * seen


# -- S: softmax -------------------------------------------------------------------------------------------


@operator(
    "S",
    "Z[*b k!] -> P[*b k!]",
    ignores_masked="Z",
    with_statistics="S_rows",
    from_statistics="normalize",
    computes=SOFTMAX,
    flops=5,
)
def softmax(xp: Xp, Z: Array) -> Array:
    """P = exp(Z − max Z) / Σ exp(Z − max Z), over the last dim.

    A masked score, Z ≤ −1e30 or −∞, is a key of probability 0, always; a row of nothing else is 0.
    """
    return _softmax(xp, Z)[0]


def _softmax(xp: Xp, Z: Array) -> tuple[Array, Array, Array]:
    """P, and each row's maximum and Σ exp(Z − max Z) over its keys."""
    top = Z.max(axis=-1)
    powers = xp.exp(Z - shift(xp, top)[..., None])
    s = powers.sum(axis=-1)
    return powers / divisor(s)[..., None], top, s


@operator(
    "S_rows",
    "Z[*b k!] -> P[*b k!], top[*b], s[*b]",
    symbol="S",
    auxiliary="top s",
    ignores_masked="Z",
    computes=SOFTMAX_ROWS,
    no_gradient="it stands for S in graphs that are differentiated already",
    flops=5,
)
def softmax_rows(xp: Xp, Z: Array) -> tuple[Array, Array, Array]:
    """P = S(Z), with each row's maximum top [*b] = max Z and sum s [*b] = Σ exp(Z − top), for P to be made again.

    The sum is over scores that are not masked: in a row without any, top ≤ −1e30 and s = 0.
    """
    return _softmax(xp, Z)


@softmax.backward("dS", "P[*b k!], dP[*b k!] -> dZ[*b k!]", flops=4, linear="dP", vanishes="P", given_dot="center")
def d_softmax(xp: Xp, P: Array, dP: Array) -> Array:
    """dZ = P ⊙ (dP − Σ P ⊙ dP), the sum over the last dim; 0 where P is, as at masked scores."""
    return (dP - einsum(xp, "...k,...k->...", P, dP)[..., None]) * P
