"""Random bits of seeds that are known only when the program runs: the hash of `operators.special`, of words of XLA's.

Which page of 2³² counters an element lies in follows from the sizes, which are known: nearly always it is the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphir.backends.xla.library import load_jax
from graphir.ir.operator import Array
from graphir.operators.dropout import least_kept
from graphir.operators.special import global_indices, hash_32, stream_keys

_MASK_64 = (1 << 64) - 1
_PAGE = 1 << 32


def random_bits(counters: Array, seed: Array, step: Array, node: int, most: int | None = None) -> Array:
    """As `special.random_bits`; where all counters are below `most`, no page beyond them is asked for."""
    jnp = load_jax().numpy
    low = counters.astype(jnp.uint32)
    if most is None:
        return _hashed(low, seed, step, node, counters >> 32)
    bits = _hashed(low, seed, step, node, 0)
    for page in range(1, -(-most // _PAGE)):
        bits = jnp.where(counters >> 32 == page, _hashed(low, seed, step, node, page), bits)
    return bits


def keep_mask(
    starts: Sequence[Any], sizes: Sequence[int], shape: Sequence[int], seed: Array, step: Array, key: int, p: float
) -> Array:
    """As `dropout.keep_mask`, of starts that may be traced, too."""
    jnp = load_jax().numpy
    threshold, count = jnp.uint16(least_kept(p)), math.prod(sizes)
    # A start that is traced is a multiple of what its rank has.
    odd = bool(shape) and isinstance(starts[-1], int) and starts[-1] % 2 == 1
    if shape and shape[-1] and sizes[-1] % 2 == 0 and shape[-1] % 2 == 0 and not odd:
        # Rows of whole pairs: one hash for both halves.
        halved = [*starts[:-1], starts[-1] // 2], [*sizes[:-1], sizes[-1] // 2], [*shape[:-1], shape[-1] // 2]
        bits = random_bits(global_indices(jnp, *halved), seed, step, key, count // 2)
        return (bits.view(jnp.uint16) >= threshold).reshape(tuple(shape))
    index = global_indices(jnp, starts, sizes, shape)
    bits = random_bits(index >> 1, seed, step, key, (count + 1) // 2)
    return (bits >> ((index & 1) << 4).astype(jnp.uint32)).astype(jnp.uint16) >= threshold


def _hashed(low: Array, seed: Array, step: Array, node: int, page: Any) -> Array:
    jnp = load_jax().numpy
    keys = (key.astype(jnp.uint32) for key in stream_keys(seed, step, node, page, _word))
    return hash_32(jnp, low, *keys)


def _word(part: Any) -> Any:
    """64 bits of an integer, known or traced; of a negative one its two's complement."""
    if isinstance(part, int):
        return np.uint64(part & _MASK_64)
    jnp = load_jax().numpy
    return jnp.asarray(part).astype(jnp.int64).astype(jnp.uint64)
