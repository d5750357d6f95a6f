"""Rotary positions: ROPE, which turns queries and keys, and the angles that it turns them by (Su et al., 2021).

The planes of a head are elements i and i + R/2 of its first R, as checkpoints since GPT-NeoX have them. Models that
turn neighbours, 2i and 2i + 1, are the same with the columns of W_Q and W_K in another order. Positions are an operand:
what is packed, cached, padded or split says where it stands, and nothing else does.

Angles depend on no head and no layer, so a model makes them once, by `rotary_angles`, and every `rope` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphir.errors import DimError, TypeCheckError
from graphir.ir.dims import as_dim
from graphir.ir.operator import Array, Place, Size, Xp, operator

# -- angles -----------------------------------------------------------------------------------------------

#: How angles are slowed down for sequences longer than a model was trained on.
SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
#: Those that compare with the length that the model was trained on.
_BY_LENGTH = ("dynamic", "llama3", "yarn", "longrope")
#: Those whose angles are others in texts beyond it, which an operand `length` says.
OF_TEXTS = ("dynamic", "longrope")


def _angles_signature(
    scaling: str,
    base: float,
    factor: float,
    original: int,
    slow: float,
    fast: float,
    short: tuple[float, ...],
    long: tuple[float, ...],
) -> str:
    if scaling not in SCALINGS:
        raise TypeCheckError(f"scaling={scaling!r} of rotary positions is none of {', '.join(SCALINGS)}")
    if not (1 < base < math.inf and 0 < factor < math.inf):
        raise TypeCheckError(f"base={base}, factor={factor}: need base > 1 and factor > 0")
    if scaling in _BY_LENGTH and original < 1:
        raise TypeCheckError(f"scaling={scaling!r} needs original=…, the positions that the model was trained on")
    if scaling in ("llama3", "yarn") and not 0 < slow < fast:
        raise TypeCheckError(f"slow={slow}, fast={fast}: need 0 < slow < fast, in turns over the original positions")
    if scaling == "longrope" and not (original > 1 and len(short) == len(long) and min(*short, *long, math.inf) > 0):
        raise TypeCheckError(f"short={short}, long={long}: need as many numbers above 0 in both, and original > 1")
    length = ", length[] natural" if scaling in OF_TEXTS else ""
    return f"T[*b] int{length} -> cos[*b planes] dtype, sin[*b planes] dtype"


def _require_planes(sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> None:
    if attributes["scaling"] == "dynamic" and sizes["planes"] < 2:
        raise DimError("rotary positions scaled dynamically need heads of at least two planes")
    if attributes["scaling"] == "longrope" and sizes["planes"] != len(attributes["short"]):
        raise DimError(f"{len(attributes['short'])} factors of rotary positions for {sizes['planes']} planes of a head")


@operator(
    "angles",
    _angles_signature,
    symbol="∠",
    requires=_require_planes,
    no_gradient="positions are integers, and angles fixed",
    examples=(
        {"planes": as_dim(3)},
        {"planes": as_dim(4), "scaling": "linear", "factor": 2.0, "base": 500.0},
        {"planes": as_dim(4), "scaling": "dynamic", "factor": 2.0, "original": 4},
        {"planes": as_dim(5), "scaling": "llama3", "factor": 8.0, "original": 64, "base": 50.0},
        {"planes": as_dim(5), "scaling": "yarn", "factor": 4.0, "original": 64, "fast": 32.0, "base": 50.0},
        {
            "planes": as_dim(3),
            "scaling": "longrope",
            "factor": 4.0,
            "original": 4,
            "short": (1.0, 1.25, 1.5),
            "long": (1.0, 2.5, 4.0),
        },
    ),
)
def rotary_angles(
    xp: Xp,
    T: Array,
    length: Array | None = None,
    *,
    planes: Size,
    base: float = 10000.0,
    scaling: str = "default",
    factor: float = 1.0,
    original: int = 0,
    slow: float = 1.0,
    fast: float = 4.0,
    gain: float = 0.0,
    short: tuple[float, ...] = (),
    long: tuple[float, ...] = (),
    dtype: str = "float32",
    shape: tuple[int, ...],
    at: Place,
) -> tuple[Array, Array]:
    """cos, sin [B, S, D_h/2] of T ω_j, for positions T [B, S] and plane j: ω_j = base^(−j / planes).

    `scaling` slows planes down, by `factor` at most. linear: all. dynamic: by another base, where `length`, one more
    than the last position, is beyond `original`. llama3: those that make fewer than `slow` turns over `original`
    positions, in part those of fewer than `fast`. yarn: the same, in even steps from plane to plane, and cos and sin
    are 0.1 ln(factor) + 1 times as large; `gain` is another such number, for any scaling. longrope: each by a number of
    its own, of `long` where `length` is beyond `original`, else of `short`, and cos and sin are √(1 + ln(factor) /
    ln(original)) times as large (Ding et al., 2024).
    """
    j = (xp.arange(shape[-1]) + at.start("planes")).astype("float64")
    if scaling == "longrope" and length is not None:
        omega = base ** (-j / planes) / xp.where(length > original, _each(xp, j, long), _each(xp, j, short))
    elif length is not None:
        # So that the slowest plane turns over `length` as it did over `original` positions (bloc97, 2023).
        beyond = xp.maximum(length, original).astype("float64") * (factor / original) - (factor - 1)
        omega = (base * beyond ** (planes / (planes - 1))) ** (-j / planes)
    else:
        omega = base ** (-j / planes)
        own = _kept(xp, j, omega, planes, base, scaling, original, slow, fast)
        omega = omega * (own + (1 - own) / factor)
    angle = T.astype("float64")[..., None] * omega
    size = gain or _size(scaling, factor, original)
    return (xp.cos(angle) * size).astype(dtype), (xp.sin(angle) * size).astype(dtype)


def _size(scaling: str, factor: float, original: int) -> float:
    """What cos and sin are multiplied by, so that scores of longer texts are as sharp."""
    if factor <= 1 or scaling not in ("yarn", "longrope"):
        return 1.0
    return 0.1 * math.log(factor) + 1 if scaling == "yarn" else math.sqrt(1 + math.log(factor) / math.log(original))


def _each(xp: Xp, j: Array, numbers: tuple[float, ...]) -> Array:
    """The number of each plane: by comparisons, which every array module and every formula has."""
    found = xp.full_like(j, numbers[-1])
    for plane, number in enumerate(numbers[:-1]):
        found = xp.where(j == plane, number, found)
    return found


def _kept(
    xp: Xp, j: Array, omega: Array, planes: int, base: float, scaling: str, original: int, slow: float, fast: float
) -> Any:
    """How much of a plane's own frequency is kept, from 0, divided by the factor, to 1."""
    if scaling == "llama3":
        turns = omega * (original / (2 * math.pi))
        return xp.clip((turns - slow) / (fast - slow), 0.0, 1.0)
    if scaling == "yarn":
        first, last = (planes * math.log(original / (2 * math.pi * turns)) / math.log(base) for turns in (fast, slow))
        begin, end = max(math.floor(first), 0), min(math.ceil(last), 2 * planes - 1)
        return 1 - xp.clip((j - begin) / (end - begin or 0.001), 0.0, 1.0)
    return 0.0 if scaling == "linear" else 1.0


# -- ROPE -------------------------------------------------------------------------------------------------


def _rope_axes(rotated: tuple[int, ...]) -> tuple[str, str]:
    """A head's dim and that of its angles: p of q equal parts are turned, a part being two blocks of e planes."""
    if len(rotated) != 2 or not 0 < rotated[0] <= rotated[1] or math.gcd(*rotated) != 1:
        raise TypeCheckError(f"rotated={rotated} is no share (p, q) of D_h, p ≤ q in lowest terms, as (1, 4) is")
    p, q = rotated
    return f"({2 * q} e)", "e" if p == 1 else f"({p} e)"


def _rope_signature(rotated: tuple[int, ...]) -> str:
    head, planes = _rope_axes(rotated)
    return f"X[b *h s {head}], cos[b s {planes}], sin[b s {planes}] -> Y[b *h s {head}]"


_SHARES: tuple[Mapping[str, Any], ...] = ({}, {"rotated": (1, 2)}, {"rotated": (3, 4)})


@operator("ROPE", _rope_signature, linear="X", flops=3, examples=_SHARES)
def rope(xp: Xp, X: Array, cos: Array, sin: Array, *, rotated: tuple[int, ...] = (1, 1)) -> Array:
    """Y [B, N_H, S, D_h]: X, each plane (x, y) of it turned by its angle into (x cos − y sin, x sin + y cos).

    `rotated`: the share p/q of D_h that is turned, its first elements; the rest stays as it is.
    """
    return _turned(xp, X, cos, sin, rotated)


def _turned(xp: Xp, X: Array, cos: Array, sin: Array, rotated: tuple[int, ...]) -> Array:
    p, q = rotated
    blocks = list(xp.split(X, 2 * q, axis=-1))
    b, s, planes = cos.shape
    wide = (b, *(1,) * (X.ndim - 3), s, planes)
    cs, ss = (_parts(xp, each.reshape(wide), p) for each in (cos, sin))
    turned = list(zip(blocks[:p], blocks[p : 2 * p], cs, ss, strict=True))
    ahead, behind = [x * c - y * s for x, y, c, s in turned], [x * s + y * c for x, y, c, s in turned]
    return xp.concatenate((*ahead, *behind, *blocks[2 * p :]), axis=-1)


def _parts(xp: Xp, angles: Array, count: int) -> list[Array]:
    return [angles] if count == 1 else list(xp.split(angles, count, axis=-1))


def _d_rope_signature(rotated: tuple[int, ...]) -> str:
    head, planes = _rope_axes(rotated)
    return f"dY[b *h s {head}], cos[b s {planes}], sin[b s {planes}] -> dX[b *h s {head}]"


@rope.backward("dROPE", _d_rope_signature, linear="dY", flops=3, examples=_SHARES)
def d_rope(xp: Xp, dY: Array, cos: Array, sin: Array, *, rotated: tuple[int, ...] = (1, 1)) -> Array:
    """dX = dY, each plane of it turned back; none flows into the angles, which are fixed."""
    return _turned(xp, dY, cos, -sin, rotated)
