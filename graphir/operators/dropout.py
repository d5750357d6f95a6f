"""Dropout: DO, dDO and the mask alone (A 1.2.2, B 4.4.5).

Masks are not drawn one after the other but computed: element i of the global tensor is kept if a hash of
(seed, step, key) and i lies above the rate. So a mask is the same on one rank or on many, and the backward
pass may compute it again instead of storing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphir.errors import TypeCheckError
from graphir.ir.assignment import write_split
from graphir.ir.operator import Array, Attributes, Place, Size, Xp, operator
from graphir.ir.traits import DROPOUT
from graphir.ir.value import Value
from graphir.operators.special import global_indices, random_bits

#: A draw has 16 bits, two to a hash: rates are rounded to multiples of 2⁻¹⁶.
_LEVELS = 1 << 16
_MOST = 0.99


def least_kept(p: float) -> int:
    """The least draw, of 16 bits, that a mask keeps at the rate p."""
    return min(round(p * _LEVELS), _LEVELS - 1)


def keep_mask(
    xp: Xp,
    starts: Sequence[int],
    sizes: Sequence[int],
    shape: Sequence[int],
    seed: Array,
    step: Array,
    key: int,
    p: float,
) -> Array:
    """The mask m of a block, bool: True with probability 1 − p. The block of `shape` lies at `starts` in `sizes`.

    An array module may bring a `keep_mask` of its own, which takes the same.
    """
    if p == 0:
        return xp.broadcast_to(xp.asarray(True), tuple(shape))
    own = getattr(xp, "keep_mask", None)
    if own is not None:
        return own(starts, sizes, shape, seed, step, key, p)
    threshold = xp.uint16(least_kept(p))
    if tuple(shape) == tuple(sizes):
        # The whole tensor: consecutive elements are the two halves of one hash.
        count = 1
        for size in shape:
            count *= size
        pairs = xp.arange((count + 1) // 2, dtype=xp.int64)
        halves = random_bits(xp, pairs, seed, step, key).view(xp.uint16)
        return (halves[:count] >= threshold).reshape(tuple(shape))
    index = global_indices(xp, starts, sizes, shape)
    bits = random_bits(xp, index >> 1, seed, step, key)
    bits >>= ((index & 1) << 4).astype(xp.uint32)
    return bits.astype(xp.uint16) >= threshold


def _check_rate(p: float) -> None:
    # A rate is rounded to a multiple of 2⁻¹⁶; above this limit that would show in the mean.
    if not 0 <= p <= _MOST:
        raise TypeCheckError(f"p={p} is no dropout rate; it lies between 0 and {_MOST}")


def _dropout_signature(p: float) -> str:
    _check_rate(p)
    return "X[*b], seed[] int, step[] int -> Y[*b], m[*b] bool"


@operator(
    "DO",
    _dropout_signature,
    auxiliary="m",
    elementwise=True,
    random=True,
    computes=DROPOUT,
    linear="X",
    depends={"m": "seed step"},
    identity=lambda attributes: {} if attributes["p"] else {"Y": "X"},
    flops=2,
    examples=({"p": 0.25, "key": 7}, {"p": 0.0, "key": 1}),
)
def dropout(xp: Xp, X: Array, seed: Array, step: Array, *, p: float, key: int, at: Place) -> tuple[Array, Array]:
    """Y = m ⊙ X / (1 − p), m [like X] 1 with probability 1 − p; the factor keeps the mean.

    m is a result too, cached for dDO. `seed` and `step` are inputs of the graph: the same program, step
    after step, draws new masks, and a run repeated draws the same.
    """
    starts, sizes = at.region("X")
    m = keep_mask(xp, starts, sizes, X.shape, seed, step, key, p)
    return _apply(X, m, p), m


def _d_dropout_signature(p: float) -> str:
    _check_rate(p)
    return "m[*b] bool, dY[*b] -> dX[*b]"


@dropout.backward(
    "dDO",
    _d_dropout_signature,
    elementwise=True,
    linear="dY",
    identity=lambda attributes: {} if attributes["p"] else {"dX": "dY"},
    flops=2,
    examples=({"p": 0.25},),
)
def d_dropout(xp: Xp, m: Array, dY: Array, *, p: float) -> Array:
    """dX = m ⊙ dY / (1 − p)."""
    return _apply(dY, m, p)


def _apply(X: Array, m: Array, p: float) -> Array:
    if p == 0:
        return X
    return X * X.dtype.type(1 / (1 - p)) * m


def _mask_signature(p: float, dims: tuple[object, ...]) -> str:
    _check_rate(p)
    return f"seed[] int, step[] int -> m[{' '.join(f'a{i}' for i in range(len(dims)))}] bool"


@operator(
    "mask",
    _mask_signature,
    symbol="m",
    hidden=True,
    factors=lambda attributes: {f"a{i}": size for i, size in enumerate(attributes["dims"])},
    random=True,
    no_gradient="a dropout mask depends on nothing that is trained",
    flops=1,
    examples=({"p": 0.25, "key": 7, "dims": (3, 4)},),
)
def dropout_mask(
    xp: Xp,
    seed: Array,
    step: Array,
    *,
    p: float,
    key: int,
    dims: tuple[Size, ...],
    shape: tuple[int, ...],
    at: Place,
) -> Array:
    """m of the DO with this key, computed again: what the backward pass uses when masks are not stored."""
    starts, sizes = at.region("m")
    return keep_mask(xp, starts, sizes, shape, seed, step, key, p)


@dropout.recomputation("m")
def _mask_again(operands: Mapping[str, Value], attributes: Attributes, m: Value, name: str) -> Value:
    factors = {f"a{i}": axes for i, axes in enumerate(m.type.layout.splits)}
    return dropout_mask(
        operands["seed"],
        operands["step"],
        p=attributes["p"],
        key=attributes["key"],
        dims=m.shape,
        split=write_split(factors, frozenset(factors)),
        name=name,
    )
