"""What arguments say that nobody sees, attention's kernels neither compute nor load: the real sources, emulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.bounds import spelled
from graphir.backends.cupy.attention_match import find_attention
from graphir.backends.cupy.sight import NONE, sight_of
from tests.backends.compiled.test_sights import NEVER, attention, drawn, given, orders
from tests.backends.cupy.test_attention import Engine, _compile, _worst
from tests.backends.proof.test_rules import masks
from tests.cuda import emulator
from tests.cuda.harness import HostExecutable, unreadable

Arrays = Mapping[str, Any]
emulated = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

#: Tiles of float64 are 64 rows high and 32 columns wide.
SIZES = {"B": 2, "S": 192, "S_k": 192, "N_KV": 2, "G": 2, "D_h": 4}


def test_a_rule_is_written_as_it_is_proved() -> None:
    sight = sight_of(masks(window=5, mask="padding", segments=True))
    assert sight is not None
    said = spelled(sight.rule.may_see, lambda bound: f"{bound.operand}{'₊' if bound.greatest else '₋'}")
    assert said == (
        "(k_position₋ <= q_position₊) && (q_position₋ - 4ll <= k_position₊) && (0ll <= keep₊ - 1ll) && "
        "(q_segment₋ <= k_segment₊) && (k_segment₋ <= q_segment₊)"
    )
    assert "return (keys.r1.least <= queries.r0.greatest) && (queries.r0.least - 4ll <= keys.r1.greatest)" in sight.text
    assert [each.of_keys for each in sight.operands] == [False, True, True, False, True]
    assert "const bool SIGHT = false" in NONE.text


def executable(sizes: Mapping[str, int], **options: Any) -> tuple[gi.Graph, HostExecutable, Any]:
    """Attention by position, forward and backward, by the kernels alone; and the interpreter."""
    graph = attention(**options)
    made, kernels = _compile(graph, sizes, "attention", Engine())
    assert made.programs
    assert (kernels.written, kernels.refused) == (2, 0)
    return graph, made, gi.compile(graph, sizes, backend="reference")


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"grouped": False},
    "window": {"window": 5},
    "all, dropout": {"window": 9, "mask": "padding", "segments": True, "drop": True},
}


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("which", VARIANTS)
def test_numbers_are_the_interpreters_in_any_order(which: str) -> None:
    sizes = {name: n for name, n in SIZES.items() if which != "plain" or name != "G"} | {"S": 75, "S_k": 75}
    graph, run, reference = executable(sizes, **VARIANTS[which])
    known = list(orders(75).values())
    for number, (q, k) in enumerate([*((each, each) for each in known), (known[0], known[3]), (known[4], known[1])]):
        arrays = {**drawn(number, sizes), "q": q, "k": k}
        arrays = given(graph, {**arrays, "Q": arrays["Q"][:, :, 0]} if which == "plain" else arrays)
        assert _worst(run(arrays), reference(arrays)) < 1e-12, number


@emulated
@pytest.mark.slow
def test_a_tile_is_not_computed_of_which_nobody_sees_anything() -> None:
    """NaN in keys and values of other documents, and behind what of a cache is filled, reaches no query of a tile; and
    that of queries of other documents, and of those that see nothing, no key."""
    graph, run, reference = executable(SIZES, segments=True)
    line = np.arange(192)
    # In the second sequence 64 keys of a cache are filled, and the last queries see nothing.
    at = np.stack([line % 64, np.where(line < 128, line, -1)])
    k = np.stack([line % 64, np.where(line < 64, line, NEVER)])
    segments = np.stack([line // 64, 0 * line])
    arrays = {**drawn(0, SIZES), "q": at, "k": k, "q_segment": segments, "k_segment": segments}
    wanted = reference(given(graph, arrays))
    for document in range(3):
        mine = slice(64 * document, 64 * document + 64)
        others = np.ones((2, 192), bool)
        others[0, mine], others[1, :64] = False, False
        for poisoned in ("KV", "Q"):
            spoilt = dict(arrays)
            for name in poisoned:
                spoilt[name] = arrays[name].copy()
                if name == "Q":
                    spoilt[name][0].swapaxes(0, 2)[others[0]] = np.nan
                    spoilt[name][1, ..., 128:, :] = np.nan
                else:
                    spoilt[name].swapaxes(1, 2)[others] = np.nan
            found = run(given(graph, spoilt))
            for name in ("dQ",) if poisoned == "KV" else ("dK", "dV"):
                made, right = found[name], wanted[name]
                np.testing.assert_allclose(made[0][..., mine, :], right[0][..., mine, :], rtol=1e-11, atol=1e-12)
                np.testing.assert_allclose(made[1], right[1], rtol=1e-11, atol=1e-12)


@emulated
@pytest.mark.slow
def test_positions_of_32_bits_and_one_query() -> None:
    """As a token is made: one query, and a cache of which part is filled."""
    sizes = {**SIZES, "S": 1, "S_k": 100}
    block = gi.Builder("token", dtype="float32")
    B, S, S_k, N_KV, G, D_h = gi.dims("B S S_k N_KV G D_h")
    Q = block.input("Q", (B, N_KV, G, S, D_h))
    K, V = (block.input(name, (B, N_KV, S_k, D_h)) for name in "KV")
    ids = [block.input("q", (B, S), "int32"), block.input("k", (B, S_k), "int32")]
    Z = gi.scale_mask_by_position(gi.matmul(Q, gi.transpose(K)), *ids, width=D_h, window=20)
    graph = block.build(gi.matmul(gi.softmax(Z), V, name="O"))
    run, kernels = _compile(graph, sizes, "attention", Engine())
    reference = gi.compile(graph, sizes, backend="reference")
    line = np.arange(100, dtype=np.int32)
    for filled in (1, 31, 32, 64, 100):
        arrays = {name: np.float32(array) for name, array in drawn(filled, sizes).items() if name in "QKV"}
        last = np.full((2, 1), filled - 1, np.int32)
        given_k = np.stack([np.where(line < filled, line, np.iinfo(np.int32).max)] * 2)
        arrays |= {"q": last, "k": given_k}
        wanted = reference(arrays)["O"]
        first = max(0, filled - 20) // 32 * 32
        for name in "KV":
            arrays[name][:, :, -(-filled // 32) * 32 :] = arrays[name][:, :, :first] = np.nan
        np.testing.assert_allclose(run(arrays)["O"], wanted, rtol=1e-5, atol=1e-6, err_msg=str(filled))
    assert kernels.written == 1


@pytest.mark.parametrize(
    ("queries", "keys", "sequences", "taken"),
    [(1, 1024, 1, True), (1, 4096, 1, False), (16, 4096, 1, True), (1, 4096, 16, True)],
)
def test_few_queries_of_many_keys_are_left_to_products(queries: int, keys: int, sequences: int, taken: bool) -> None:
    """Unless there are many such: who goes through all keys alone takes its time."""
    sizes = {"B": sequences, "S": queries, "S_k": keys, "N_KV": 4, "G": 2, "D_h": 64}
    run, kernels = _compile(attention(), sizes, "attention", Engine())
    found = [each for task in run.prepared.tasks for each in find_attention(task).values()]
    assert [kernels.fits(each) for each in found] == [taken] * 2


@emulated
@pytest.mark.slow
def test_what_is_behind_a_caches_end_is_not_even_loaded() -> None:
    """64 keys of 256 are filled: the others lie where nothing may be read."""
    sizes = {"B": 1, "S": 3, "S_k": 256, "D_h": 64}
    block = gi.Builder("filled", dtype="float64")
    B, S, S_k, D_h = gi.dims("B S S_k D_h")
    Q = block.input("Q", (B, 1, S, D_h))
    K, V = (block.input(name, (B, 1, S_k, D_h)) for name in "KV")
    ids = [block.input("q", (B, S), "int64"), block.input("k", (B, S_k), "int64")]
    Z = gi.scale_mask_by_position(gi.matmul(Q, gi.transpose(K)), *ids, width=D_h)
    graph = block.build(gi.matmul(gi.softmax(Z), V, name="O"))
    run, kernels = _compile(graph, sizes, "attention", Engine())
    random, line = np.random.default_rng(0), np.arange(256)[None]
    shapes = {"Q": (1, 1, 3, 64), "K": (1, 1, 256, 64), "V": (1, 1, 256, 64)}
    arrays: dict[str, Any] = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    arrays |= {"q": np.array([[61, 62, 63]]), "k": np.where(line < 64, line, NEVER)}
    wanted = run(arrays)["O"]
    assert kernels.written == 1
    assert _worst({"O": wanted}, gi.compile(graph, sizes, backend="reference")(arrays)) < 1e-12
    (program,) = run.programs
    held = {value.name: array for value, array in program.rank.arrays.items() if hasattr(value, "name")}
    held["O"][:] = np.nan
    with unreadable(held["K"][:, :, 64:]), unreadable(held["V"][:, :, 64:]):
        for function, given_to in program.segments[0].calls[0]:
            function(*given_to)
    np.testing.assert_array_equal(held["O"], wanted)
