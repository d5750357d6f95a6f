"""The compiled executor against the interpreter where sizes, tiles and threads meet: small ones, uneven ones, all.

Sizes are small; tilings drawn at random take every boundary to where they are. Numbers are float64, so that what
departs departs by more than rounding.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.ir.graph import Graph
from graphir.passes import LEVELS, autodiff
from tests.campaign.sweeps import (
    SQUARES,
    SWEEPS,
    Swept,
    arguments,
    folded,
    hold,
    merged,
    spread_rows,
    spread_sum,
    square,
    transformer,
)
from tests.support.sampled import sampled
from tests.support.tilings import drawn

B, D, H = gi.dims("b d h")


def agree(graph: Graph, sizes: dict[str, int], *given: Mapping[str, Any], **options: Any) -> None:
    """Every result is the interpreter's, twice in a row with the same bits."""
    wanted = gi.compile(graph, sizes, backend="reference", fetch=options.get("fetch"))(*given)
    run = gi.compile(graph, sizes, **options)
    first, second = run(*given), run(*given)
    for name, array in wanted.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        scale = 1 + np.abs(array).max(initial=0, where=np.isfinite(array))
        np.testing.assert_allclose(first[name], array, rtol=1e-9, atol=1e-9 * scale, err_msg=f"{name} {sizes}")


# -- one value in two roles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", SQUARES)
def test_a_value_in_two_roles(expression: str) -> None:
    graph, rng = square(expression), np.random.default_rng(0)
    # By the engine's own tiling from where it begins to cut, and to share.
    for size in (1, 2, 7, 31, 47, 48, 64, 65, 127, 128, 129, 200, 300):
        X = rng.standard_normal((size, size)) / size**0.5
        for threads in (1, 2, 5):
            agree(graph, {"b": size}, {"X": X}, threads=threads)
    for seed in range(12):
        X = rng.standard_normal((6, 6))
        agree(graph, {"b": 6}, {"X": X}, threads=1 + seed % 4, tiling=drawn(seed))


@pytest.mark.parametrize("expression", SQUARES)
def test_gradients_of_a_value_in_two_roles(expression: str) -> None:
    block = gi.Builder("square", dtype="float64")
    X = block.parameter("X", (B, B))
    made = SQUARES[expression](gi.scale(X, by=0.7))
    graph = autodiff(block.build(gi.reduce_sum(gi.multiply(made, made), name="L")))
    given = {"X": np.random.default_rng(1).standard_normal((5, 5))}
    for seed in range(12):
        agree(graph, {"b": 5}, given, threads=1 + seed % 4, tiling=drawn(seed))


# -- sums that are read as something else --------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_sum_that_is_read_as_a_broadcast(threads: int) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((700, 1001))
    agree(spread_sum(), {"b": 700, "d": 1001, "k": 2}, {"X": X}, threads=threads)
    for seed in range(20):
        agree(spread_sum(), {"b": 5, "d": 3, "k": 2}, {"X": X[:5, :3]}, threads=threads, tiling=drawn(seed))


def test_positions_that_are_summed_and_spread_in_a_norm() -> None:
    """P [S, D] → Σ over S → BC to B → LN: the gradient of P is a sum that leaves as a broadcast."""
    block = gi.Builder("positions", dtype="float64")
    P, X = block.parameter("P", (H, D)), block.input("X", (B, D))
    spread = gi.broadcast(gi.reduce_sum(P, (0,)), (B,), axes=(0,))
    gamma, beta = block.parameter("gamma", (D,)), block.parameter("beta", (D,))
    Y = gi.layer_norm(gi.add(X, spread), gamma, beta)
    graph = autodiff(block.build(gi.reduce_sum(gi.multiply(Y, Y), name="L")))
    rng = np.random.default_rng(2)
    sizes = {"b": 6, "d": 5, "h": 3}
    given = {
        value.name: rng.standard_normal([dim.size(sizes) for dim in value.shape])
        for value in (*graph.inputs, *graph.parameters)
    }
    for seed in range(20):
        agree(graph, sizes, given, threads=1 + seed % 3, tiling=drawn(seed))


@pytest.mark.slow
@sampled(1, sizes=[(5, 7), (2, 3), (3, 2)])
def test_results_that_are_views_of_what_nobody_else_sees(sizes: tuple[int, int]) -> None:
    graph = spread_rows()
    given = {"X": np.random.default_rng(0).standard_normal(sizes)}
    named = {"b": sizes[0], "d": sizes[1]}
    agree(graph, named, given)
    for seed in range(8):
        agree(graph, named, given, threads=1 + seed % 3, tiling=drawn(seed))
        for name in graph.values:
            agree(graph, named, given, threads=2, tiling=drawn(seed), fetch=[name])
            agree(graph, named, given, threads=2, tiling=drawn(seed), fetch=["Z", "R", name])


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (3, 4), (4, 2)])
def test_dims_that_are_merged_and_split_otherwise(sizes: tuple[int, int]) -> None:
    X_given = np.random.default_rng(0).standard_normal(sizes)
    for seed in range(6):
        agree(merged(), dict(zip("ed", sizes, strict=True)), {"X": X_given}, threads=2, tiling=drawn(seed))


def test_a_view_of_a_sum_with_a_loop_as_its_minor_factor() -> None:
    X_given = np.random.default_rng(0).standard_normal((3, 4, 10000))
    agree(folded(), {"h": 3, "f": 4, "b": 10000}, {"X": X_given}, threads=2)
    for seed in range(10):
        agree(folded(), {"h": 3, "f": 4, "b": 5}, {"X": X_given[..., :5]}, threads=2, tiling=drawn(seed))


# -- causal attention ----------------------------------------------------------------------------------------


@sampled(3, heads=[1, 2, 3], threads=[2, 3, 4, 8], batch=[1, 2])
def test_gradients_of_causal_attention_on_many_threads(heads: int, threads: int, batch: int) -> None:
    """Where the forward pass is too small for a second thread and the backward pass is not."""
    graph = transformer()
    for length in (9, 12, 17):
        for width in (4, 6):
            D = heads * width
            sizes = {"B": batch, "S": length, "D": D, "N_H": heads, "D_ff": 4 * D, "V": 17}
            agree(graph, sizes, *arguments(graph, sizes), threads=threads)


@sampled(
    3,
    options=[{"causal": True}, {"causal": True, "mask": "padding"}, {"causal": False}],
    level=LEVELS,
    seeds=[range(3), range(3, 6)],
)
def test_attention_by_tiles_drawn_at_random(options: dict[str, Any], level: str, seeds: range) -> None:
    graph = transformer(dropout=0.25, **options)
    for seed in seeds:
        sizes = {"B": 1 + seed % 3, "S": 4 + seed, "D": 6, "N_H": 1 + seed % 2, "D_ff": 8, "V": 5}
        given = arguments(graph, sizes, seed)
        agree(graph, sizes, *given, threads=1 + seed % 4, tiling=drawn(seed), recompute=level)


@pytest.mark.parametrize("name", SWEEPS)
@sampled(1, count=[2, 10])
def test_some_of_each_sweep(name: str, count: int) -> None:
    """All of them are `python -m tests.campaign.sweeps`."""
    swept = Swept(name)
    # Of the benchmark's sizes only the least one is small enough to be made here.
    points = [next(SWEEPS[name]())] if name == "benchmark" else random.Random(name).sample(list(SWEEPS[name]()), count)
    for point in points:
        hold(point, [2, 5], swept)
    assert not swept.departures
    assert swept.comparisons >= 2 * swept.points
