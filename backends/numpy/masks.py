"""Masks of dropout in NumPy calls, by the hash of `graphir.operators.special`.

A pair of neighbouring elements has one counter c, its number in the global tensor, and one hash h(c); its halves are
the two draws. The hash begins with c ^ k₀ and M(x) = x ^ (x >> 17). M is linear over bits, so M(c ^ k₀) is
M(c₀) ^ M(i) ^ M(k₀) for c = c₀ + i wherever that sum carries nothing: of the aligned range that i runs through,
M(i) is a table made once, and two operators in three of the first round are saved.
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
from graphir.operators.special import stream_keys

#: The longest table of M(i): 32 KiB, so that it stays in a core's first cache.
_LONGEST = 1 << 13
#: Below this, a table is a loop too short to be worth its call.
_SHORTEST = 1 << 5
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
    keys = call.prepared((2,), np.uint32, _write_keys, seed, step, attributes["key"])
    bits = call.scratch((len(runs.starts), runs.pairs), np.uint32)
    _record_hash(call, runs, keys, bits)
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


@writes("keys")
def _write_keys(seed: Array, step: Array, key: int, keys: Array) -> None:
    np.copyto(keys, _keys(int(seed), int(step), key))


@lru_cache(maxsize=1024)
def _keys(seed: int, step: int, key: int) -> Array:
    """M(k₀) and k₁. Every thread asks, forward and backward, and Python's integers take longer than a call."""
    first, second = stream_keys(seed, step, key, 0)
    return np.array((first ^ (first >> 17), second), np.uint32)


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


def _record_hash(call: Calls, runs: _Runs, keys: Array, bits: Array) -> None:
    """Records the hash of each counter into bits [run, pair], uint32; keys are M(k₀) and k₁."""
    spare = call.scratch(bits.shape, np.uint32)
    _record_first_round(call, runs, keys[0, ...], bits, spare)
    for multiplier, key, shift in _ROUNDS:
        call(np.multiply, bits, np.array(multiplier, np.uint32), bits)
        if key:
            call(np.bitwise_xor, bits, keys[1, ...], bits)
        _record_fold(call, bits, spare, shift)


#: After the first: multiply by this, then (or not) the second key, then x ^= x >> shift; see `special.random_bits`.
_ROUNDS = ((0xED5AD4BB, True, 11), (0xAC4C1B51, False, 15), (0x31848BAB, False, 14))


def _record_fold(call: Calls, bits: Array, spare: Array, shift: int) -> None:
    call(np.right_shift, bits, np.array(shift, np.uint32), spare)
    call(np.bitwise_xor, bits, spare, bits)


def _fold(x: Array) -> Array:
    """M(x)."""
    return np.asarray(x ^ (x >> np.uint32(17)))


def _folded_counters(count: int) -> Array:
    """M(0), M(1), …"""
    return _fold(np.arange(count, dtype=np.uint32))


def _record_first_round(call: Calls, runs: _Runs, key: Array, bits: Array, spare: Array) -> None:
    """Records M(c) ^ key, for each counter c, into bits."""
    width = _aligned_width(runs)
    if width >= _SHORTEST:
        table = call.constant(_folded_counters, width)
        chunks = (runs.starts[:, None] + np.arange(0, runs.pairs, width)).reshape(-1, 1)
        origins = call.scratch(chunks.shape, np.uint32)
        call(np.bitwise_xor, _fold(chunks.astype(np.uint32)), key, origins)
        call(np.bitwise_xor, origins, table, bits.reshape(-1, width))
        return
    steps = call.constant(np.arange, runs.pairs, None, None, np.uint32)
    call(np.add, runs.starts.astype(np.uint32)[:, None], steps, bits)
    _record_fold(call, bits, spare, 17)
    call(np.bitwise_xor, bits, key, bits)


def _aligned_width(runs: _Runs) -> int:
    """The largest power of two that divides each run's start and length: within it, no sum carries."""
    together = int(np.bitwise_or.reduce(runs.starts, initial=runs.pairs | _LONGEST))
    return together & -together
