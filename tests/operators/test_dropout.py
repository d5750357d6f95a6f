"""Dropout's statistics, and that a mask depends on its key and on the element's place alone.

Bounds. Of n elements, kept with probability q = 1 − p, the kept fraction has the deviation σ = √(pq/n).
The correlation of two independent masks, Σ (m − q)(m′ − q) / (pq n), has mean 0 and σ = 1/√n, as a sum of n
independent terms of variance (pq)². By the central limit theorem both are normal for the n used here
(2¹⁶ and more), and leave ±5 σ once in 1.7 million times. Where thousands of correlations are looked at,
the bound is 6.5 σ: once in 12 billion times each. Keys are fixed, so that a test passes always or never.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.operators.dropout import dropout_mask, keep_mask
from graphir.operators.special import random_bits
from graphir.passes import autodiff, dce, recompute

N = 1 << 18
Mask = NDArray[np.bool_]


def draw(count: int, p: float, seed: int = 0, step: int = 0, key: int = 1) -> Mask:
    return np.asarray(keep_mask(np, (0,), (count,), (count,), seed, step, key, p))


def standardized(mask: Mask, p: float) -> NDArray[np.float64]:
    """Mean 0 and variance 1, if the rate is p."""
    return (mask - (1 - p)) / np.sqrt(p * (1 - p))


def run_dropout(shape: tuple[int, ...], p: float, X: NDArray[np.float64], seed: int = 0, step: int = 0):  # type: ignore[no-untyped-def]
    block = gi.Builder("drop", dtype="float64")
    value = block.input("X", shape)
    seed_value, step_value = block.input("seed", (), "int64"), block.input("step", (), "int64")
    Y, m = gi.dropout.all(value, seed_value, step_value, p=p, names=["Y", "m"])
    result = gi.compile(block.build(Y, m), {})({"X": X, "seed": seed, "step": step})
    return result["Y"], result["m"]


# -- rate and scaling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0625, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("key", [1, 2, 77, 2**40])
def test_the_rate_is_p(p: float, key: int) -> None:
    kept = draw(N, p, key=key).mean()
    # p itself is rounded to a multiple of 2⁻¹⁶.
    assert abs(kept - (1 - p)) <= 5 * np.sqrt(p * (1 - p) / N) + 2**-17


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_what_is_kept_is_scaled_so_that_the_mean_stays(p: float) -> None:
    X = np.random.default_rng(3).uniform(1, 2, (512, 512))
    Y, m = run_dropout((512, 512), p, X)
    assert np.array_equal(Y[~m], np.zeros((~m).sum()))
    assert np.allclose(Y[m], X[m] / (1 - p), rtol=1e-15, atol=0)
    # Each Y/X is 0 or 1/(1 − p): mean 1, variance p/(1 − p).
    assert abs((Y / X).mean() - 1) <= 5 * np.sqrt(p / (1 - p) / X.size) + 2**-17 / (1 - p)


def test_a_rate_of_zero_is_the_identity() -> None:
    X = np.random.default_rng(3).standard_normal((3, 5))
    Y, m = run_dropout((3, 5), 0.0, X)
    assert np.array_equal(Y, X)
    assert m.all()


@pytest.mark.parametrize("p", [1.0, -0.1, 1.5])
def test_a_rate_outside_is_refused(p: float) -> None:
    with pytest.raises(gi.GraphirError, match=r"is no dropout rate; it lies between 0 and 0.99"):
        run_dropout((3,), p, np.zeros(3))


# -- independence -----------------------------------------------------------------------------------------

_STREAMS = [*itertools.product((0, 1, 5), (0, 1, 2, 1000), (1, 2, 3, 64)), (2**33, 2**34, 2**35), (-1, 0, 1)]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_seeds_steps_and_nodes_draw_independent_masks(p: float) -> None:
    masks = np.stack([standardized(draw(1 << 16, p, *stream), p) for stream in _STREAMS])
    correlations = masks @ masks.T / masks.shape[1]
    pairs = correlations[np.triu_indices(len(masks), 1)]
    sigma = 1 / np.sqrt(masks.shape[1])
    assert np.abs(pairs).max() <= 6.5 * sigma
    # Over a thousand pairs, the spread itself is σ, to 5 of its own deviations σ/√(2 · pairs).
    assert abs(pairs.std() - sigma) <= 5 * sigma / np.sqrt(2 * len(pairs))


_LAGS = [*range(1, 9), *(2**i for i in range(4, 18)), *(3 * 2**i for i in range(2, 16))]


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("stream", [(0, 0, 1), (0, 1, 1), (1, 0, 2), (12345, 678, 9)])
def test_neighbours_are_independent(stream: tuple[int, int, int], p: float) -> None:
    x = standardized(draw(1 << 20, p, *stream), p)
    z = {lag: float(x[lag:] @ x[:-lag]) / np.sqrt(len(x) - lag) for lag in _LAGS}
    assert {lag: value for lag, value in z.items() if abs(value) > 5} == {}


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("key", range(1, 9))
def test_elements_at_no_distance_at_all_are_correlated(key: int, p: float) -> None:
    x = standardized(draw(N, p, seed=4, step=2, key=key), p)
    spectrum = np.fft.rfft(x)
    z = np.fft.irfft(spectrum * spectrum.conj(), N)[1 : N // 2] / np.sqrt(N)
    assert np.abs(z).max() <= 6.5, f"lag {1 + int(np.abs(z).argmax())}"


def test_the_two_masks_of_one_hash_are_independent() -> None:
    even, odd = standardized(draw(N, 0.5), 0.5).reshape(-1, 2).T
    assert abs(float(even @ odd)) <= 5 * np.sqrt(N / 2)


@pytest.mark.parametrize("width", [24, 64, 100, 256, 1024, 2048, 4096])
def test_rectangles_are_independent(width: int) -> None:
    # A hash is a product of what rows share and what columns share. Of two rows of ±1 the sum of products has the
    # variance of its count, and so the sum of its squares, which are rectangles, shows whether four corners agree.
    found = []
    for key in range(1, 9):
        rows = standardized(draw(N // width * width, 0.5, seed=7, step=1, key=key), 0.5).reshape(-1, width)[:256]
        for one in (rows, rows.T[:256]):
            sums = (one @ one.T / np.sqrt(one.shape[1]))[np.triu_indices(len(one), 1)]
            assert np.abs(sums).max() <= 6.5
            found.append((np.square(sums).mean() - 1) * np.sqrt(len(sums) / 2))
    assert np.abs(found).max() <= 5
    assert abs(np.sum(found)) <= 5 * np.sqrt(len(found))


def test_draws_have_all_values_equally_often() -> None:
    halves = random_bits(np, np.arange(1 << 21), seed=3, step=1, node=2).view(np.uint16).reshape(-1, 2)
    for draws, bins in ((halves, 16), (halves[:, 0], 16), (halves[:, 1], 16)):
        counts = np.bincount(draws.reshape(-1), minlength=1 << bins)
        expected = draws.size / (1 << bins)
        # χ² of so many bins has their number as its mean, and twice it as its variance.
        assert abs(np.square(counts - expected).sum() / expected - (1 << bins)) <= 5 * np.sqrt(2 << bins)
    both = np.bincount((halves[:, 0].astype(int) >> 10) * 64 + (halves[:, 1] >> 10), minlength=4096)
    expected = len(halves) / 4096
    assert abs(np.square(both - expected).sum() / expected - 4096) <= 5 * np.sqrt(2 * 4096)


# -- a key and a place make the mask ----------------------------------------------------------------------


def test_the_same_key_draws_the_same_mask_and_another_does_not() -> None:
    X = np.ones((16, 16))
    _, m = run_dropout((16, 16), 0.5, X, seed=4, step=9)
    assert np.array_equal(run_dropout((16, 16), 0.5, 2 * X, seed=4, step=9)[1], m)
    for seed, step in [(5, 9), (4, 10), (9, 4)]:
        assert not np.array_equal(run_dropout((16, 16), 0.5, X, seed, step)[1], m)


@pytest.mark.parametrize("sizes", [(7,), (6,), (3, 5), (1, 1, 1), (5, 3, 7), (4, 2, 3, 5)])
def test_the_mask_of_a_block_is_the_block_of_the_mask(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(sizes))
    block = gi.Builder("drop", dtype="float64")
    value = block.input("X", sizes)
    seed, step = block.input("seed", (), "int64"), block.input("step", (), "int64")
    node_of = block.build(gi.dropout(value, seed, step, p=0.4, key=11)).nodes[0]
    rule = node_of.inference.rule
    factors = rule.inputs[0].factors
    X = rng.standard_normal(sizes)
    scalars = np.asarray(8), np.asarray(21)
    whole_place = gi.Place(rule, {}, dict(zip(factors, sizes, strict=True)))
    Y, m = gi.dropout.kernel(np, X, *scalars, p=0.4, key=11, at=whole_place)
    for _ in range(20):
        starts = tuple(int(rng.integers(0, size)) for size in sizes)
        ends = tuple(int(rng.integers(start, size)) + 1 for start, size in zip(starts, sizes, strict=True))
        cut = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
        place = gi.Place(rule, dict(zip(factors, starts, strict=True)), whole_place.sizes)
        Y_block, m_block = gi.dropout.kernel(np, X[cut], *scalars, p=0.4, key=11, at=place)
        assert np.array_equal(m_block, m[cut])
        assert np.array_equal(Y_block, Y[cut])


def test_mask_alone_is_the_mask_of_dropout_with_its_key() -> None:
    X = np.ones((5, 3))
    block = gi.Builder("drop", dtype="float64")
    seed, step = block.input("seed", (), "int64"), block.input("step", (), "int64")
    Y, m = gi.dropout.all(block.input("X", (5, 3)), seed, step, p=0.3, key=6, names=["Y", "m"])
    again = dropout_mask(seed, step, p=0.3, key=6, dims=Y.shape, name="again")
    result = gi.compile(block.build(m, again), {})({"X": X, "seed": 1, "step": 2})
    assert np.array_equal(result["m"], result["again"])


@pytest.mark.parametrize("start", [2**32 - 8, 2**33 - 8, 2**33 - 7, 5 * 2**33 - 3])
def test_counters_run_on_beyond_32_bits(start: int) -> None:
    size = 2**40
    block = keep_mask(np, (start,), (size,), (16,), 0, 0, 1, 0.5)
    one_by_one = [bool(keep_mask(np, (start + i,), (size,), (1,), 0, 0, 1, 0.5)[0]) for i in range(16)]
    assert block.tolist() == one_by_one


def test_elements_beyond_32_bits_of_counter_repeat_nothing() -> None:
    first = standardized(draw(N, 0.5), 0.5)
    for start in (2**33, 2**34, 3 * 2**33):
        later = standardized(keep_mask(np, (start,), (2**40,), (N,), 0, 0, 1, 0.5), 0.5)
        assert abs(float(first @ later)) <= 5 * np.sqrt(N)


# -- in a model -------------------------------------------------------------------------------------------

_SIZES = {"B": 2, "S": 3, "D": 6, "D_ff": 5, "N_H": 2, "V": 7}


def _inputs(graph: gi.Graph):  # type: ignore[no-untyped-def]
    from graphir.backends import initialize

    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 7, (2, 3)), rng.integers(0, 7, (2, 3))
    return initialize(graph, _SIZES, seed=1), {"T": ids, "Y": labels, "seed": 3, "step": 14}


def test_masks_computed_again_give_the_same_bits_as_masks_stored() -> None:
    joint = autodiff(gi.models.transformer(2, dropout=0.3))
    parameters, batch = _inputs(joint)
    stored = gi.compile(joint, _SIZES, backend="reference", recompute="nothing")(parameters, batch)
    again = gi.compile(joint, _SIZES, backend="reference")(parameters, batch)
    assert set(stored) == set(again)
    for name in stored:
        assert stored[name].tobytes() == again[name].tobytes()


def test_recomputing_leaves_no_mask_held_from_forward_to_backward() -> None:
    joint = autodiff(gi.models.transformer(1, dropout=0.3))
    rewritten = recompute(joint)
    draws = [node for node in rewritten.nodes if node.operator is gi.dropout]
    masks = {node.outputs[1] for node in draws if node.meta.phase == "forward"}
    assert len(masks) == 5
    assert not any(masks.intersection(node.inputs) for node in rewritten.nodes)
    # AS is there for dS anyway, so AS_drop, which dV reads, is made again with its mask.
    again = "layer0/mha/AS_drop.again"
    made = [node for node in rewritten.nodes if node.operator is dropout_mask or node.name == again]
    assert len(made) == 5
    assert all(node.meta.why and "recomputed" in node.meta.why for node in made)


def test_each_node_has_a_key_of_its_own_and_keeps_it_through_passes() -> None:
    model = gi.models.transformer(2)
    keys = {node.name: node.attributes["key"] for node in model.nodes if node.operator is gi.dropout}
    assert len(set(keys.values())) == len(keys) == 9
    for graph in (autodiff(model), dce(model), recompute(autodiff(model))):
        drawn = {n.name: n.attributes["key"] for n in graph.nodes if n.operator is gi.dropout}
        assert {name: key for name, key in drawn.items() if name in keys} == keys
        assert all(key == keys[name.removesuffix(".again")] for name, key in drawn.items())
