"""What no query of a run sees is left out, whatever the positions; and never anything that one sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled import sights
from graphir.backends.compiled.program import Program
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.trace import Seen
from graphir.errors import ProofError
from graphir.passes import autodiff
from tests.support.sampled import sampled
from tests.support.tilings import DrawnTiling

B, S, S_k, N_KV, G, D_h = gi.dims("B S S_k N_KV G D_h")
SIZES = {"B": 2, "S": 24, "S_k": 24, "N_KV": 2, "G": 2, "D_h": 4}
NEVER = 1 << 30
Arrays = Mapping[str, Any]


def attention(grouped: bool = True, drop: bool = False, **options: Any) -> gi.Graph:
    """L = Σ O², O of attention by position, and its gradients."""
    block = gi.Builder("attention", dtype="float64")
    group = (G,) if grouped else ()
    Q = block.parameter("Q", (B, N_KV, *group, S, D_h))
    K, V = (block.parameter(name, (B, N_KV, S_k, D_h)) for name in "KV")
    ids = [block.input(name, (B, size), "int64") for name, size in (("q", S), ("k", S_k))]
    if options.get("mask") == "padding":
        ids.append(block.input("keep", (B, S_k), "bool"))
    if options.get("segments"):
        ids += [block.input(name, (B, size), "int64") for name, size in (("q_segment", S), ("k_segment", S_k))]
    Z = gi.scale_mask_by_position(gi.matmul(Q, gi.transpose(K)), *ids, width=D_h, **options)
    P = gi.softmax(Z)
    if drop:
        P = gi.dropout(P, *(block.input(name, (), "int64") for name in ("seed", "step")), p=0.3, key=5)
    O = gi.matmul(P, V, name="O")  # noqa: E741
    return autodiff(block.build(gi.reduce_sum(gi.multiply(O, O), name="L")))


def drawn(seed: int, sizes: Mapping[str, int] = SIZES) -> Arrays:
    random = np.random.default_rng(seed)
    b, s, s_k = sizes["B"], sizes["S"], sizes["S_k"]
    return {
        "Q": random.standard_normal((b, 2, 2, s, 4)),
        "K": random.standard_normal((b, 2, s_k, 4)),
        "V": random.standard_normal((b, 2, s_k, 4)),
        "keep": random.random((b, s_k)) < 0.7,
        "q_segment": np.sort(random.integers(0, 3, (b, s))),
        "k_segment": np.sort(random.integers(0, 3, (b, s_k))),
        "seed": np.array(seed),
        "step": np.array(3),
    }


def orders(count: int) -> dict[str, Any]:
    """Positions [2, count] in every order that one may think of."""
    random, line = np.random.default_rng(1), np.arange(count)
    return {
        "in order": np.stack([line, line]),
        "one behind the other's prompt": np.stack([line, np.maximum(line - 9, -1)]),
        "packed": np.stack([line % 7, line % 11]),
        "permuted": np.stack([random.permutation(count), random.permutation(count)]),
        "backwards": np.stack([line[::-1], line]),
        "halves exchanged": np.stack([np.roll(line, count // 2)] * 2),
        "all at once": np.zeros((2, count), int),
        "nobody": np.full((2, count), NEVER),
    }


def tiling(seed: int) -> DrawnTiling:
    return DrawnTiling(bytes=1 << 22, small=0, causal=(1, 1 << 20), seed=seed, grain=(1, 4, 3, 8)[seed % 4], worth=0)


def given(graph: gi.Graph, arrays: Arrays) -> Arrays:
    return {value.name: arrays[value.name] for value in graph.arguments}


OPTIONS = {
    "plain": {"grouped": False},
    "grouped": {},
    "window": {"window": 5},
    "padding": {"mask": "padding"},
    "segments": {"segments": True, "window": 9},
}


def _plain(arrays: Arrays) -> Arrays:
    return {**arrays, "Q": arrays["Q"][:, :, 0]}


@sampled(4, case=[(which, 5 * i + 3) for i, which in enumerate(OPTIONS)] + [("grouped", 1)])
def test_numbers_are_the_interpreters_in_any_order(case: tuple[str, int]) -> None:
    """One executable, run on one order after the other; each of its programs is proved."""
    which, seed = case
    graph = attention(**OPTIONS[which])
    sizes = {name: size for name, size in SIZES.items() if name != "G" or which != "plain"}
    reference = gi.compile(graph, sizes, backend="reference")
    run = gi.compile(graph, sizes, threads=1 + seed % 3, tiling=tiling(seed), check=True)
    known = list(orders(24).values())
    for number, (q, k) in enumerate([*((each, each) for each in known), (known[0], known[3]), (known[4], known[1])]):
        arrays = {**drawn(number), "q": q, "k": k}
        arrays = given(graph, _plain(arrays) if which == "plain" else arrays)
        wanted, found = reference(arrays), run(arrays)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-11, atol=1e-12, err_msg=f"{name}, {number}")


@pytest.mark.parametrize("window", [0, 6])
@pytest.mark.parametrize("order", orders(40))
def test_what_is_left_out_nobody_sees(order: str, window: int) -> None:
    """Held to the mask itself, entry by entry; and of what is in order nearly half is left out."""
    graph = attention(window=window)
    run = gi.compile(graph, {**SIZES, "S": 40, "S_k": 40}, threads=1)
    (sight,) = run.prepared.sights
    q, k = (next(v for v in run.optimised.arguments if v.name == name) for name in "qk")
    positions = orders(40)[order]
    seen = sight.look({q: positions, k: positions}, 4, 4)
    assert seen is not None
    before = positions[:, :, None] - positions[:, None, :]
    mask = (before >= 0) & ((before < window) if window else True)
    told = np.zeros_like(mask)
    for b in range(2):
        for low in range(0, 40, 3):
            first, last = sights.keys_of(seen, (b, b + 1), (low, min(low + 3, 40)))
            told[b, low : low + 3, first:last] = True
    assert not (mask & ~told).any()
    if order == "in order":
        assert told.mean() < (0.6 if not window else 0.4)


@pytest.mark.parametrize("restart", [True, False])
def test_as_much_is_left_out_as_if_each_key_were_asked(restart: bool) -> None:
    """Documents end within steps of keys, and begin again at position 0: of such steps the least and the greatest alone
    would show all of a document to its first query."""
    run = gi.compile(attention(segments=True, window=9), {**SIZES, "S": 96, "S_k": 96}, threads=1)
    (sight,) = run.prepared.sights
    line = np.arange(96)
    document = np.searchsorted([21, 50, 77], line, side="right")
    at = line - np.array([0, 21, 50, 77])[document] if restart else line
    of = {"q": at, "k": at, "q_segment": document, "k_segment": document}
    arrays = {value: np.stack([of[value.name]] * 2) for value in run.optimised.arguments if value.name in of}
    told, asked = sight.look(arrays, 8, 8), dataclasses.replace(sight, bounds=None).look(arrays, 8, 8)
    assert told == asked


def test_what_some_queries_see_is_told_of_theirs_alone() -> None:
    """Of two sequences of four queries, two at a time; without a range of sequences of both."""
    seen = Seen(2, 6, lows=((0, 2), (2, 4)), highs=((2, 4), (4, 6)))
    assert [sights.keys_of(seen, b, (0, 2)) for b in ((0, 1), (1, 2), (0, 2), None)] == [(0, 2), (2, 4), (0, 4), (0, 4)]
    assert [sights.keys_of(seen, (1, 2), q) for q in ((0, 1), (1, 3), (2, 4))] == [(2, 4), (2, 6), (4, 6)]


def calls(program: Program) -> int:
    """How many calls the tiles have beside those that the program was written with."""
    return sum(len(each.calls) for strand in program.sparing.strands for each in strand.versions.values())


def test_what_is_left_out_follows_from_the_arguments_alone() -> None:
    """In order half is left out, tile by tile; of what tiles have that no run wants any more most is given up."""
    graph = attention()
    run = gi.compile(graph, SIZES, threads=1, tiling=Tiling(1 << 22, 0, (4, 8), grain=4, worth=0), check=False)
    line = np.stack([np.arange(24)] * 2)
    first = run(given(graph, {**drawn(0), "q": line, "k": line}))
    (program,) = run.programs
    assert program.current is not program.segments
    most = 9 * sum(len(each.calls[0]) for each in program.segments)
    for ahead in range(-23, 24):
        for width in range(1, 24, 3):
            run(given(graph, {**drawn(0), "q": line - ahead, "k": np.where(line < width, line, NEVER)}))
            assert calls(program) < most
    again = run(given(graph, {**drawn(0), "q": line, "k": line}))
    for name, array in first.items():
        assert np.array_equal(again[name], array)
    run(given(graph, {**drawn(0), "q": line, "k": 0 * line}))
    assert program.current is program.segments


def test_each_tile_has_the_keys_that_its_own_queries_see() -> None:
    """Three documents packed in the first row; the second is 9 tokens long, and what pads it has all of it to see."""
    run = gi.compile(
        graph := attention(segments=True), SIZES, threads=1, tiling=Tiling(1 << 10, 0, (8, 8), grain=1, worth=0)
    )
    line = np.arange(24)
    at = np.stack([line, np.where((line >= 6) & (line < 15), line, NEVER)])
    segments = np.stack([line // 8, 0 * line])
    mask = (at[:, :, None] >= at[:, None, :]) & (segments[:, :, None] == segments[:, None, :])
    arrays = {**drawn(0), "q": at, "k": at, "q_segment": segments, "k_segment": segments}
    run(given(graph, arrays))
    for strand in run.programs[0].sparing.strands:
        q, k, b, _ = strand.causal
        keys = {number: found for (number, found), each in strand.versions.items() if each is strand.chosen[number]}
        for number, tile in enumerate(strand.tiles):
            assert tile[b][1] - tile[b][0] == 1
            mine = np.flatnonzero(mask[slice(*tile[b]), slice(*tile[q])].any((0, 1)))
            assert keys.get(number, tile[k]) == (mine[0], mine[-1] + 1)


def test_what_a_tile_does_for_those_behind_it_its_versions_do() -> None:
    """The first one derives the keys of dropout's stream from seed and step for all, with whichever keys it runs."""
    graph = attention(drop=True)
    run = gi.compile(graph, SIZES, threads=1, tiling=Tiling(1 << 12, 0, (4, 8), grain=4, worth=0), check=False)
    reference = gi.compile(graph, SIZES, backend="reference")
    for number, order in enumerate(("in order", "packed", "backwards")):
        arrays = given(graph, {**drawn(number), "q": orders(24)[order], "k": orders(24)[order]})
        wanted, found = reference(arrays), run(arrays)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-11, atol=1e-12, err_msg=f"{name}, {order}")
    assert all(0 in strand.chosen for strand in run.programs[0].sparing.strands)


def test_what_is_chosen_is_proved_once() -> None:
    """Whatever is seen where the same keys are enough, and however often it comes again."""
    graph = attention()
    run = gi.compile(graph, SIZES, threads=1, tiling=Tiling(1 << 22, 0, (4, 8), grain=4, worth=0), check=True)
    line = np.stack([np.arange(24)] * 2)
    proofs = []
    for q, k in ((line, line), (line[:, ::-1], line), (line, line), (line * 2, line * 2), (line, 2 * (line // 2))):
        run(given(graph, {**drawn(0), "q": q, "k": k}))
        proofs.append(len(run.proofs))
    assert proofs == [2, 3, 3, 3, 3]


def test_little_is_not_worth_a_program() -> None:
    graph = attention()
    run = gi.compile(graph, SIZES, threads=1)
    line = np.stack([np.arange(24)] * 2)
    run(given(graph, {**drawn(0), "q": line, "k": line}))
    assert run.programs[0].current is run.programs[0].segments


def test_what_the_caller_hands_in_next_is_read_by_every_program() -> None:
    """Large arguments are read where they are, and results lent: both have to follow when the program changes."""
    sizes = {**SIZES, "S": 300, "S_k": 300}
    graph = attention()
    run = gi.compile(graph, sizes, threads=2, tiling=Tiling(1 << 22, 0, (16, 64), grain=32, worth=0))
    reference = gi.compile(graph, sizes, backend="reference")
    line, back = np.stack([np.arange(300)] * 2), np.stack([np.arange(300)[::-1]] * 2)
    kept = []
    for number, positions in enumerate([line, back, line, back, line // 2]):
        arrays = given(graph, {**drawn(number, sizes), "q": positions, "k": positions})
        kept.append((run(arrays), reference(arrays)))
    assert calls(run.programs[0])
    for found, wanted in kept:
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-10, atol=1e-10)


def test_a_program_that_leaves_out_a_key_that_is_seen_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = attention()
    run = gi.compile(graph, SIZES, threads=1, tiling=Tiling(1 << 22, 0, (4, 8), grain=4, worth=0), check=True)
    right = sights.keys_of

    def narrower(seen: Seen, b: Any, q: Any) -> Any:
        low, high = right(seen, b, q)
        return low, high - 4 if high > 8 else high

    monkeypatch.setattr("graphir.backends.compiled.versions.keys_of", narrower)
    line = np.stack([np.arange(24)] * 2)
    with pytest.raises(ProofError, match=r"needs all of S_k 0:24, and reads S_k 0:\d+"):
        run(given(graph, {**drawn(0), "q": line, "k": line}))


@pytest.mark.parametrize("axis", ["b", "q"])
def test_each_rank_leaves_out_what_its_own_queries_do_not_see(axis: str) -> None:
    """Sequences, or queries, over two ranks; keys are whole on both."""
    mesh = gi.Mesh(r=2)
    b, q = (("r",), ()) if axis == "b" else ((), ("r",))
    block = gi.Builder("ranks", dtype="float64", mesh=mesh)
    layout = gi.Layout
    Q = block.input("Q", (B, N_KV, G, S, D_h), layout=layout([b, (), (), q, ()]))
    K, V = (block.input(name, (B, N_KV, S_k, D_h), layout=layout([b, (), (), ()])) for name in "KV")
    at = block.input("q", (B, S), "int64", layout=layout([b, q]))
    k_at = block.input("k", (B, S_k), "int64", layout=layout([b, ()]))
    Z = gi.scale_mask_by_position(gi.matmul(Q, gi.transpose(K)), at, k_at, width=D_h)
    graph = block.build(gi.matmul(gi.softmax(Z), V, name="O"))
    run = gi.compile(graph, SIZES, threads=1, tiling=Tiling(1 << 22, 0, (4, 8), grain=4, worth=0), check=True)
    reference = gi.compile(graph, SIZES, backend="reference")
    for order in ("in order", "packed", "backwards"):
        arrays = given(graph, {**drawn(0), "q": orders(24)[order], "k": orders(24)[order]})
        np.testing.assert_allclose(run(arrays)["O"], reference(arrays)["O"], rtol=1e-12, atol=1e-12)
    assert all(calls(program) for program in run.programs)
