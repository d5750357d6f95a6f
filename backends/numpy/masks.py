"""Masks of dropout in NumPy calls, by the hash of `graphir.operators.special`.

A pair of neighbouring elements has one counter, its number in the global tensor, and one hash; its halves are the two
draws. The hash is a product, of one factor for each block of counters and one for each place in a block: the places'
are a table made once a run, the blocks' are few, so that what is done for every pair is a product and a fold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.effects import writes
from graphir.ir.operator import Place
from graphir.operators.dropout import least_kept
from graphir.operators.special import BLOCK, SPREAD_BLOCK, SPREAD_PLACE, factor, hash_32, stream_keys

#: Of fewer places side by side, a loop is too short to be worth its call.
_SHORTEST = 1 << 5
#: Of so many blocks all factors are made at once, for all tiles; of more, each tile has its own.
_TOGETHER = 1 << 12
#: The factors of a mask, and its rate.
_Detail: TypeAlias = tuple[Sequence[str], float]


def can_record_mask(sizes: Iterable[int]) -> bool:
    """Whether the pairs of a tensor are no more than what 32 bits count."""
    return math.prod(sizes) <= 1 << 33


def record_mask(
    call: Calls, place: Place, attributes: Mapping[str, Any], m: Array, seed: Array, step: Array, detail: _Detail
) -> None:
    """Records into m the mask of a block that lies at a place, by the node's own key; see `can_record_mask`."""
    factors, p = detail
    starts = tuple(place.start(factor) for factor in factors)
    runs = _runs(starts, tuple(place.sizes[factor] for factor in factors), m.shape)
    bits = _record_hash(call, runs, math.prod(place.sizes[name] for name in factors), seed, step, attributes["key"])
    draws, threshold = bits.view(np.uint16), np.array(least_kept(p), np.uint16)
    if runs.odd is None:
        call(np.greater_equal, draws[:, : runs.length].reshape(m.shape), threshold, m)
    else:
        above = call.scratch(draws.shape, bool)
        call(np.greater_equal, draws, threshold, above)
        call(_cut_runs, above, runs.odd, runs.length, m)


@writes("m")
def _cut_runs(above: Array, odd: Array, length: int, m: Array) -> None:
    """m = the draws of each run, which begin in the middle of a pair where the run is `odd`."""
    cut = np.where(odd, above[:, 1 : length + 1], above[:, :length])
    np.copyto(m, cut.reshape(m.shape))


@writes("stream")
def _write_stream(seed: Array, step: Array, key: int, first: int, stream: Array) -> None:
    np.copyto(stream, _stream(int(seed), int(step), key, first, len(stream) - BLOCK))


@lru_cache(maxsize=256)
def _stream(seed: int, step: int, key: int, first: int, count: int) -> Array:
    """The factor of each place, then those of blocks. Every thread asks, forward and backward, for the same."""
    of_block, of_place = stream_keys(seed, step, key, 0)
    numbers = np.arange(max(BLOCK, count), dtype=np.uint32)
    places = factor(np, numbers[:BLOCK], of_place, SPREAD_PLACE)
    return np.concatenate([places, factor(np, numbers[:count] + np.uint32(first), of_block, SPREAD_BLOCK)])


@writes("keys")
def _write_keys(seed: Array, step: Array, key: int, keys: Array) -> None:
    keys[:] = stream_keys(int(seed), int(step), key, 0)


class _Runs(NamedTuple):
    """Elements of a block that are neighbours in the global tensor, in runs of `length`, each within `pairs` pairs.

    starts   the counters of the runs' first pairs, [runs]
    odd      whether a run begins with the second element of a pair, [runs, 1]; None if draws and elements are one
             row, or all runs consist of whole pairs
    """

    starts: Array
    pairs: int
    length: int
    odd: Array | None


@lru_cache(maxsize=1024)
def _runs(starts: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> _Runs:
    """The runs of a block; every layer asks for those of the same blocks, forward and backward."""
    length, stride, axis, first = 1, 1, len(shape), 0
    while axis > 0 and length == stride:
        axis -= 1
        first += starts[axis] * stride
        length *= shape[axis]
        stride *= sizes[axis]
    index = np.full((1,), first, np.int64)
    for outer in reversed(range(axis)):
        steps = (np.arange(shape[outer]) + starts[outer]) * stride
        index = (steps[:, None] + index).reshape(-1)
        stride *= sizes[outer]
    odd = (index & 1).astype(bool)[:, None]
    if odd.any() or (length % 2 and len(index) > 1):
        return _Runs(index >> 1, length // 2 + 1, length, odd)
    return _Runs(index >> 1, (length + 1) // 2, length, None)


def _record_hash(call: Calls, runs: _Runs, elements: int, seed: Array, step: Array, key: int) -> Array:
    """Records the hash of each counter of a tensor of so many elements; returns the array [run, pair] of them."""
    before, after = _beyond(runs)
    starts, pairs = runs.starts - before, before + runs.pairs + after
    width = math.gcd(BLOCK, pairs, int(np.bitwise_or.reduce(starts, initial=0)))
    whole = call.scratch((len(starts), pairs), np.uint32)
    if width < _SHORTEST:
        keys = call.prepared((2,), np.uint32, _write_keys, seed, step, key)
        call(_write_hashes, starts.astype(np.uint32), keys, whole)
        return whole
    chunks = (starts[:, None] + np.arange(0, pairs, width)).reshape(-1)
    blocks, bits = chunks // BLOCK, whole.reshape(-1, width)
    first, count = 0, -(-elements // (2 * BLOCK))
    if count > _TOGETHER:
        first, count = int(blocks.min()), int(blocks.max() - blocks.min()) + 1
    stream = call.prepared((BLOCK + count,), np.uint32, _write_stream, seed, step, key, first)
    places, factors = stream[:BLOCK].reshape(-1, width), stream[BLOCK:, None]
    if len(starts) == 1 and width == BLOCK:
        factors = factors[blocks[0] - first :][: len(blocks)]
    else:
        chosen = call.scratch((len(blocks), 1), np.uint32)
        call(np.take, factors, blocks - first, 0, chosen, "clip")
        factors = chosen
    if width < BLOCK:
        call(np.take, places, chunks % BLOCK // width, 0, bits, "clip")
        places = bits
    call(np.multiply, factors, places, bits)
    spare = call.scratch(whole.shape, np.uint32)
    call(np.right_shift, whole, np.array(16, np.uint32), spare)
    call(np.bitwise_xor, whole, spare, whole)
    return whole[:, before : before + runs.pairs]


@writes("bits")
def _write_hashes(starts: Array, keys: Array, bits: Array) -> None:
    counters = starts[:, None] + np.arange(bits.shape[1], dtype=np.uint32)
    np.copyto(bits, hash_32(np, counters, *keys))


def _beyond(runs: _Runs) -> tuple[int, int]:
    """How many pairs before and after a run are hashed in vain, so that blocks are whole: of one long run."""
    if len(runs.starts) > 1 or runs.pairs < BLOCK:
        return 0, 0
    (start,) = runs.starts.tolist()
    return start % BLOCK, -(start + runs.pairs) % BLOCK
