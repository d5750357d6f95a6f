"""The pass pipeline: each can be left out, what stands between two is a graph, and all of it is fast."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphir as gi
from graphir.errors import ConfigError
from graphir.ir.types import DTYPES
from graphir.passes import (
    LEVELS,
    PIPELINE,
    Optimizer,
    autodiff,
    dce,
    mixed_precision,
    optimize,
    pipeline,
    run_passes,
    run_pipeline,
    separate_products,
    unfuse,
)

SIZES = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 12, "V": 11}


def step(layers: int = 1) -> gi.Graph:
    return dce(optimize(autodiff(gi.models.transformer(layers, dropout=0.25, dtype="float64"))))


def arguments(graph: gi.Graph) -> tuple[dict[str, object], dict[str, object]]:
    ids = np.arange(8).reshape(2, 4)
    return gi.initialize(graph, SIZES), {"T": ids, "Y": ids + 1, "seed": 1, "step": 1}


def test_every_stage_is_a_graph_that_computes_the_same_and_can_be_printed() -> None:
    """Bit for bit, but for inner products of rows that are had of others: those to rounding."""
    graph = step()
    wanted = gi.compile(graph, SIZES, backend="reference")(*arguments(graph))
    stages: list[str] = []

    def check(name: str, stage: gi.Graph) -> None:
        stages.append(name)
        assert gi.parse(gi.to_text(stage)) == stage
        found = gi.compile(unfuse(stage), SIZES, backend="reference")(*arguments(graph))
        if "keep_softmax_statistics" not in stages:
            assert all(np.array_equal(found[key], array) for key, array in wanted.items()), name
        for key, array in wanted.items():
            np.testing.assert_allclose(found[key], array, rtol=1e-11, atol=1e-13, err_msg=f"{name}: {key}")

    final = run_passes(graph, pipeline("full", on_gpu=True), between=check)
    assert tuple(stages) == PIPELINE
    assert final == run_pipeline(graph, "full", on_gpu=True)


@pytest.mark.parametrize("without", PIPELINE)
def test_each_pass_can_be_left_out(without: str) -> None:
    graph = step()
    names = [each.__name__ for each in pipeline(without=[without], on_gpu=True)]
    assert names == [name for name in PIPELINE if name != without]
    stage = gi.verify(run_pipeline(graph, without=[without]))
    wanted, found = (gi.compile(each, SIZES, backend="reference")(*arguments(graph)) for each in (graph, unfuse(stage)))
    assert all(np.array_equal(found[key], array) for key, array in wanted.items())


def test_a_gpu_writes_less_and_computes_more() -> None:
    assert [each.__name__ for each in pipeline()] == [name for name in PIPELINE if name != "keep_softmax_statistics"]
    plain, lean = (unfuse(run_pipeline(step(), "attention", on_gpu=each)) for each in (False, True))
    more = {node.name for node in lean.nodes} - {node.name for node in plain.nodes}
    # A gradient of softmax is told its rows' inner products, and what a bias is added to is held without it.
    assert {"layer0/mha/dZ.dot", "layer0/mlp/Z_up.again", "output/Z_bias.again"} <= more


def traffic(graph: gi.Graph, sizes: dict[str, int]) -> int:
    """Bytes that the nodes read and write, each operand and result once; views, and what lies inside, cost nothing."""
    known = {**sizes, "D_h": sizes["D"] // sizes["N_H"]}
    values = [
        value
        for node in graph.nodes
        if not node.operator.view
        for value in (*dict.fromkeys(node.inputs), *node.outputs)
    ]
    return sum(math.prod(dim.size(known) for dim in value.shape) * DTYPES[value.dtype] for value in values)


@pytest.mark.slow
def test_a_step_of_gpt2_moves_a_third_less_memory_on_a_gpu() -> None:
    """Of GPT-2 small with B 8, S 1024: what is taken to a GPU, and what its passes and narrow results leave of that."""
    sizes = {"B": 8, "S": 1024, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50304}
    model = gi.models.transformer(12, decode=None, activation="gelu_tanh")
    moved = {}
    for results, without, on_gpu in (("wide", ["round_products"], False), ("wide", [], True), ("narrow", [], True)):
        graph = dce(optimize(autodiff(mixed_precision(model, "bfloat16", results)), Optimizer("adamw")))
        moved[results, on_gpu] = traffic(run_pipeline(graph, "attention", without, on_gpu), sizes)
    before, wide, narrow = moved.values()
    assert before > 40e9
    assert wide < 0.84 * before
    assert narrow < 0.67 * before


def test_an_unknown_pass_is_refused() -> None:
    with pytest.raises(ConfigError, match="fold, melt is no optimising pass; there are simplify, recompute, "):
        pipeline(without=["melt", "fold", "fuse"])


def test_every_level_is_known() -> None:
    for level in LEVELS:
        assert gi.verify(run_pipeline(step(), level)).outputs


def test_products_are_taken_apart_into_one_for_each_gradient() -> None:
    joint = autodiff(gi.models.mlp(1))
    apart = gi.verify(separate_products(joint))
    products = [node for node in apart.nodes if node.operator is gi.find_operator("dMatmul")]
    assert products
    for node in products:
        # dX = dY • Wᵀ needs no X, dW = Xᵀ • dY no W.
        assert (len(node.inputs), len(node.outputs)) == (2, 1)
    assert set(apart.values) == set(joint.values)


@pytest.mark.slow
def test_time_grows_with_the_number_of_layers_alone() -> None:
    """Work is counted in calls that a profiler sees, which no other program on the machine disturbs."""
    import cProfile
    import pstats

    calls = {}
    for layers in (4, 8, 16):
        graph = step(layers)
        run_pipeline(graph)  # fills what is kept of type checks and tilings
        profile = cProfile.Profile()
        profile.runcall(run_pipeline, graph)
        calls[layers] = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    assert calls[16] - calls[8] < 2.1 * (calls[8] - calls[4])
