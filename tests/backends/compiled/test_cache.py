"""CACHE: rows written into state where it lies, and what attends to them the same as without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DimError, InputError

B, S, S_k, N_KV, G, D_h = gi.dims("B S S_k N_KV G D_h")
SIZES = {"B": 2, "N_KV": 3, "G": 2, "D_h": 8}
#: A position that no query reaches: that of a row that is not written yet.
NEVER = 1 << 30


def heads(X: gi.Value, group: bool) -> gi.Value:
    """X [B, S, D] as heads [B, N_KV, G, S, D_h], or [B, N_KV, S, D_h], turned by position."""
    if group:
        X = gi.transpose(gi.reshape(X, "b s (k g e) -> b s k g e", k=N_KV, g=G), (0, 2, 3, 1, 4))
    else:
        X = gi.transpose(gi.reshape(X, "b s (k e) -> b s k e", k=N_KV), (0, 2, 1, 3))
    return X


def attention(cached: bool, window: int = 0) -> gi.Graph:
    """O of grouped heads with rotary positions; `cached`: of keys and values in a cache of S_k rows."""
    block = gi.Builder("attention", dtype="float64")
    Q = block.input("Q", (B, S, N_KV * G * D_h))
    K, V = (block.input(name, (B, S, N_KV * D_h)) for name in "KV")
    position = block.input("position", (B, S), "int64")
    angles = gi.rotary_angles.all(position, planes=D_h / 2, dtype="float64")
    q, k, v = gi.rope(heads(Q, True), *angles), gi.rope(heads(K, False), *angles), heads(V, False)
    k_position, more = position, []
    if cached:
        start, k_position = block.input("start", (B,), "int64"), block.input("k_position", (B, S_k), "int64")
        k, v = (
            gi.cache_write(block.state(name, (B, N_KV, S_k, D_h)), rows, start, name=f"{name}_new")
            for name, rows in (("K_cache", k), ("V_cache", v))
        )
        more = [k, v]
    Z = gi.scale_mask_by_position(gi.matmul(q, gi.transpose(k)), position, k_position, width=D_h, window=window)
    return block.build(gi.matmul(gi.softmax(Z), v, name="O"), *more)


def drawn(length: int) -> dict[str, Any]:
    random = np.random.default_rng(length)
    return {name: random.standard_normal((2, length, width)) for name, width in (("Q", 48), ("K", 24), ("V", 24))}


def positions(lengths: list[int], count: int) -> Any:
    """Of prompts of these lengths, padded on the right: rows behind a prompt are where nobody looks."""
    return np.where(np.arange(count) < np.asarray(lengths)[:, None], np.arange(count), NEVER)


@pytest.mark.parametrize("rows", [12, 7], ids=["all rows", "as many as the window"])
def test_cached_and_uncached_are_the_same(rows: int) -> None:
    """Prompts of 5 and 3 tokens, then token by token; a cache of 7 rows begins anew at its first."""
    window = 0 if rows == 12 else 4
    given, lengths, total = drawn(12), [5, 3], 9
    whole = {"position": np.broadcast_to(np.arange(12), (2, 12)), **given}
    expected = gi.compile(attention(False, window), {**SIZES, "S": 12}, backend="reference")(whole)["O"]
    graph = attention(True, window)
    state = {name: np.full((2, 3, rows, 8), 7.0) for name in ("K_cache", "V_cache")}
    known = np.full((2, rows), NEVER)
    at = np.asarray([0, 0])
    done = [0, 0]
    while min(done) < total:
        count = 5 if not any(done) else 1
        ahead = np.asarray(lengths if count == 5 else [1, 1])
        position = np.asarray(done)[:, None] + np.arange(count)
        position = np.where(np.arange(count) < ahead[:, None], position, NEVER)
        for b in range(2):
            known[b, (at[b] + np.arange(count)) % rows] = position[b]
        tokens = {
            name: np.stack([X[b, np.minimum(done[b] + np.arange(count), 11)] for b in range(2)])
            for name, X in given.items()
        }
        run = gi.compile(graph, {**SIZES, "S": count, "S_k": rows}, donate=True, threads=2, check=True)
        out = run(state, {"position": position, "k_position": known, "start": at, **tokens})
        assert all(out[f"{name}_new"] is array for name, array in state.items())
        for b in range(2):
            for i in range(ahead[b]):
                found, wanted = out["O"][b, :, :, i], expected[b, :, :, done[b] + i]
                np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)
        at, done = at + count, [each + int(more) for each, more in zip(done, ahead, strict=True)]


def written(donate: bool, read_old: bool) -> tuple[Any, Any, Any]:
    """The cache before a run, what was handed in after it, and the run."""
    block = gi.Builder("state")
    cache, rows = block.state("cache", (2, 3, 6, 4)), block.input("rows", (2, 3, 2, 4))
    new = gi.cache_write(cache, rows, block.input("start", (2,), "int64"), name="new")
    old = [gi.scale(cache, by=2.0, name="old")] if read_old else []
    run = gi.compile(block.build(new, *old), {}, donate=donate, threads=2, check=True)
    before = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype("float32")
    given = before.copy()
    out = run({"cache": given, "rows": np.zeros((2, 3, 2, 4), "float32"), "start": np.asarray([5, 8])})
    return before, given, out


@pytest.mark.parametrize("read_old", [False, True])
def test_a_cache_that_is_given_away_is_written_where_it_is(read_old: bool) -> None:
    before, given, out = written(True, read_old)
    expected = before.copy()
    expected[0, :, [5, 0]] = 0
    expected[1, :, [2, 3]] = 0
    assert out["new"] is given
    assert np.array_equal(given, expected)
    if read_old:
        assert np.array_equal(out["old"], 2 * before)


def test_a_cache_that_is_kept_stays_as_it_was() -> None:
    before, given, out = written(False, False)
    assert np.array_equal(given, before)
    assert np.array_equal(out["new"][0, :, 1:5], before[0, :, 1:5])


def test_nothing_but_the_rows_is_written() -> None:
    graph = attention(True)
    run = gi.compile(graph, {**SIZES, "S": 1, "S_k": 512}, donate=True, threads=1)
    run.programs  # noqa: B018  written when first asked for
    (segment,) = run.programs[0].segments
    copied = [arguments for function, arguments in segment.calls[0] if function is np.copyto]
    assert not [arguments for arguments in copied if arguments[0].size >= 512 * 8]


def test_what_does_not_fit_is_refused() -> None:
    graph = attention(True)
    with pytest.raises(DimError, match="9 rows are to be written into a cache of 8"):
        gi.compile(graph, {**SIZES, "S": 9, "S_k": 8})
    run = gi.compile(graph, {**SIZES, "S": 1, "S_k": 8})
    state = {name: np.zeros((2, 3, 8, 8)) for name in ("K_cache", "V_cache")}
    ids = {"position": np.zeros((2, 1), int), "k_position": np.zeros((2, 8), int)}
    with pytest.raises(InputError, match=r"start\[1\] = -1, and K_cache_new = CACHE\(…\) counts from 0"):
        run(state, {**ids, "start": np.asarray([0, -1]), **drawn(1)})
