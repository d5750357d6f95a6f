"""Masked scores, functions that array modules lack, and the counter-based random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from graphir.ir.operator import Array, Xp

# -- masked scores ----------------------------------------------------------------------------------------

#: What takes the place of a masked score. A score that is not above it, −∞ too, is *masked*: its probability is 0.
#: Floats are so far apart there that exp(MASKED − m) is 0 for the next one already, m, in every dtype: beside a score
#: that is not masked, masked ones need no case of their own.
MASKED = -1e30


def masked_score(dtype: Any) -> Any:
    """MASKED in a float dtype; −∞ in float16, whose numbers end before. A dtype of symbols brings its own."""
    value = -math.inf if dtype == "float16" else MASKED
    return getattr(dtype, "masked", dtype.type)(value)


def is_masked(Z: Array) -> Array:
    """Where scores are masked."""
    return masked_score(Z.dtype) >= Z


def shift(xp: Xp, top: Array) -> Array:
    """What a row's scores are taken relative to: their maximum, or 0 in a row that has no key.

    exp(Z − shift) is then 0 where Z is masked, in every row, and 1 at the maximum of every row that has a key.
    """
    return xp.where(is_masked(top), top.dtype.type(0), top)


def divisor(s: Array) -> Array:
    """What a row's powers are divided by: their sum, or 1 in a row that has no key, where they are all 0."""
    return s + (s == 0)


# -- sums and least numbers in every float dtype ------------------------------------------------------------


def einsum(xp: Xp, pattern: str, X: Array, Y: Array) -> Array:
    """As NumPy's, of two operands; those of bfloat16, which that does not know, are multiplied in float32."""
    if X.dtype.name == "bfloat16":
        return xp.einsum(pattern, X.astype(xp.float32), Y.astype(xp.float32)).astype(X.dtype)
    return xp.einsum(pattern, X, Y)


def scatter_add(xp: Xp, rows: Array, terms: Array, shape: tuple[int, ...]) -> Array:
    """Of `shape`: row r is the sum of the terms [*b, d] where `rows` [*b] is r. A module may bring its own."""
    own = getattr(xp, "scatter_add", None)
    if own is not None:
        return own(rows, terms, shape)
    total = xp.zeros(shape, dtype=terms.dtype)
    xp.add.at(total, rows.reshape(-1), terms.reshape(-1, shape[-1]))
    return total


def smallest_normal(dtype: Any) -> Any:
    """The least positive number of a float dtype that has all of its digits; NumPy knows no bfloat16's."""
    return dtype.type(2.0 ** {"float16": -14, "float64": -1022}.get(dtype.name, -126))


# -- erf --------------------------------------------------------------------------------------------------

# Rational approximations of W. J. Cody, "Rational Chebyshev approximations for the error function",
# Mathematics of Computation 23 (1969), highest power first: relative error below 1e-16 on each interval.
_SMALL_P = (
    1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
    3.20937758913846947e3,
)  # fmt: skip
_SMALL_Q = (
    1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
    2.84423683343917062e3,
)  # fmt: skip
_MIDDLE_P = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
    2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
    1.23033935479799725e3,
)  # fmt: skip
_MIDDLE_Q = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
    1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
    1.23033935480374942e3,
)  # fmt: skip


def erf(xp: Xp, x: Array) -> Array:
    """erf(x), elementwise, to the precision of x's dtype. An array module may bring its own."""
    own = getattr(xp, "erf", None)
    if own is not None:
        return own(x)
    if x.dtype.itemsize == 2:
        # The polynomials' values are beyond float16.
        return erf(xp, x.astype(xp.float32)).astype(x.dtype)
    size = xp.abs(x)
    # Beyond 6, erf is 1 in double precision; the clip keeps all polynomials finite.
    clipped = xp.minimum(size, 6)
    square = clipped * clipped
    small = x * (_horner(square, _SMALL_P) / _horner(square, _SMALL_Q))
    middle = 1 - xp.exp(-square) * (_horner(clipped, _MIDDLE_P) / _horner(clipped, _MIDDLE_Q))
    return xp.where(size <= 0.46875, small, xp.copysign(middle, x))


def _horner(x: Array, coefficients: Sequence[float]) -> Array:
    result: Any = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        result = (result + coefficient) * x
    return result + coefficients[-1]


# -- random numbers by counter ----------------------------------------------------------------------------

_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def _mix_64(x: Any, word: Callable[[Any], Any]) -> Any:
    """SplitMix64's finalizer (Steele, Lea and Flood, 2014): every bit of x changes half of the result's."""
    whole = word(_MASK_64)
    x = (x + word(0x9E3779B97F4A7C15)) & whole
    x = ((x ^ (x >> word(30))) * word(0xBF58476D1CE4E5B9)) & whole
    x = ((x ^ (x >> word(27))) * word(0x94D049BB133111EB)) & whole
    return x ^ (x >> word(31))


def stream_keys(seed: Any, step: Any, node: int, page: int, word: Callable[[Any], Any] = int) -> tuple[Any, Any]:
    """Two 32-bit keys of the stream of (seed, step, node), page `page` of 2³² counters.

    `word` makes a word of 64 bits, or of more, of an integer: who knows none before it runs has words of its own.
    """
    mixed = word(0)
    for part in (seed, step, node, page):
        mixed = _mix_64(mixed ^ (word(part) & word(_MASK_64)), word)
    return mixed & word(_MASK_32), mixed >> word(32)


def random_bits(xp: Xp, counters: Array, seed: Array, step: Array, node: int) -> Array:
    """32 random bits for each 64-bit counter, uint32 of the counters' shape.

    A keyed integer hash: the same (seed, step, node, counter) gives the same bits wherever and in
    whatever order it is asked, so a mask does not depend on how a tensor is split.
    An array module that knows no number before it runs brings its own.
    """
    own = getattr(xp, "random_bits", None)
    if own is not None:
        return own(counters, seed, step, node)
    seed, step = int(seed), int(step)
    low = counters.astype(xp.uint32)
    if counters.size == 0:
        return low
    first, last = int(counters.min()) >> 32, int(counters.max()) >> 32
    if first == last:
        return hash_32(xp, low, *stream_keys(seed, step, node, first))
    pages = counters >> 32
    bits = low.copy()
    for page in range(first, last + 1):
        inside = pages == page
        bits[inside] = hash_32(xp, low[inside], *stream_keys(seed, step, node, page))
    return bits


#: Counters are hashed in blocks of so many: by what their block is, and by their place in it.
BLOCK = 1 << 10
#: Odd numbers that spread a block's, and a place's, bits (C. Wellons, "Prospecting for hash functions", 2018).
SPREAD_BLOCK, SPREAD_PLACE = 0xED5AD4BB, 0xAC4C1B51


def hash_32(xp: Xp, x: Array, key0: Array, key1: Array) -> Array:
    """The product of two hashes, of a counter's block and of its place there, folded so that both halves are random.

    Who hashes many counters needs each block's hash once and all places' once, and then takes a product for each
    counter and a fold. Products are random where sums would not be: of four counters, in two blocks at two places,
    no bit follows from those of the other three. Two keys, because streams that differ in a first xor alone would be
    permutations of each other. What chance leaves: two blocks, or two places, are correlated if their hashes' ratio
    is one of small numbers, as two are in one stream of some forty of a million draws.
    """
    x = factor(xp, x // xp.uint32(BLOCK), key0, SPREAD_BLOCK) * factor(xp, x % xp.uint32(BLOCK), key1, SPREAD_PLACE)
    return x ^ (x >> xp.uint32(16))


def factor(xp: Xp, number: Array, key: Array, spread: int) -> Array:
    """An odd word of 32 bits for each number below 2³¹, another for each: of odd numbers no product loses a bit."""
    x = (number << xp.uint32(1)) ^ xp.uint32(key)
    x *= xp.uint32(spread)
    x ^= x >> xp.uint32(15)
    return x | xp.uint32(1)


def global_indices(xp: Xp, starts: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> Array:
    """The row-major index in the global tensor of each element of a block, int64 of the block's shape.

    The block of `shape` lies at `starts` in a tensor of `sizes`.
    """
    result = xp.zeros((1,) * len(shape), dtype=xp.int64)
    stride = 1
    for axis in reversed(range(len(shape))):
        steps = (xp.arange(shape[axis], dtype=xp.int64) + starts[axis]) * stride
        result = result + steps.reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        stride *= sizes[axis]
    return result
