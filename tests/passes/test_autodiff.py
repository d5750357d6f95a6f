"""Whole-model gradients against finite differences, the shape of the joint graph, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends import initialize
from graphir.errors import DifferentiationError
from graphir.ir.analysis import needed_nodes
from graphir.ir.graph import BACKWARD, FORWARD
from graphir.operators import IGNORE
from graphir.operators.linear import d_matmul
from graphir.passes import autodiff, dce, lower, run_passes, with_gradients
from graphir.testing import check_directional, distance, same_bits

SIZES = {"B": 2, "S": 3, "D": 6, "D_ff": 5, "N_H": 2, "V": 7}


def arguments(graph: gi.Graph, sizes: Mapping[str, int] = SIZES, seed: int = 1) -> dict[str, Any]:
    """Random content for every argument: wide weights, ids with one ignored label, a mask that keeps the first key."""
    rng, arrays = np.random.default_rng(seed), dict[str, Any]()
    for value in graph.arguments:
        shape = tuple(each.size(sizes) for each in value.shape)
        if value.dtype == "int64":
            arrays[value.name] = rng.integers(0, sizes.get("V", 9), shape)
        elif value.dtype == "bool":
            arrays[value.name] = np.asarray(rng.random(shape) < 0.5) | (np.arange(shape[-1]) == 0)
        else:
            arrays[value.name] = 0.4 * rng.standard_normal(shape) + (value.init == "ones")
    if "Y" in arrays:
        arrays["Y"][0, 0] = IGNORE
    return arrays


TRANSFORMERS: list[dict[str, object]] = [
    {"layers": 2},
    {"dropout": 0.0, "tied": False, "qkv_bias": True, "activation": "gelu"},
    {"final_norm": False, "activation": "silu", "positions": "sinusoidal"},
    {"activation": "gelu_tanh", "mask": "padding", "causal": False, "tied": False},
    {"mask": "given", "qkv_bias": True, "decode": "top-k"},
]


@pytest.mark.parametrize("options", TRANSFORMERS, ids=lambda options: " ".join(options))
def test_all_gradients_of_a_transformer_together(options: dict[str, object]) -> None:
    graph = gi.models.transformer(**{"layers": 1, **options, "dtype": "float64"})
    names = [value.name for value in graph.parameters]
    check_directional(graph, SIZES, arguments(graph), names, "transformer")


@pytest.mark.parametrize("options", TRANSFORMERS[1:3], ids=lambda options: " ".join(options))
def test_each_gradient_of_a_transformer_alone(options: dict[str, object]) -> None:
    graph = gi.models.transformer(**{"layers": 1, **options, "dtype": "float64"})
    arrays = arguments(graph)
    for value in graph.parameters:
        check_directional(graph, SIZES, arrays, [value.name], value.name)


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu", "relu"])
@pytest.mark.parametrize("layers", [1, 3])
def test_gradients_of_an_mlp_in_parameters_and_input(kind: str, layers: int) -> None:
    sizes = {"B": 3, "D_in": 4, "D_out": 2} | {f"D_{i}": 3 + i for i in range(1, layers)}
    graph = gi.models.mlp(layers, activation=kind, dtype="float64")
    names = [*(value.name for value in graph.parameters), "X"]
    check_directional(graph, sizes, arguments(graph, sizes), names, f"mlp {kind}")


# -- several uses -----------------------------------------------------------------------------------------


def square_builder() -> tuple[gi.Builder, gi.Value]:
    block = gi.Builder("uses", dtype="float64")
    return block, block.input("X", (3,))


def gradient(graph: gi.Graph, X: object) -> Any:
    return gi.compile(autodiff(graph, wrt=["X"]), {})({"X": np.asarray(X, "float64")})["dX"]


def test_a_value_used_twice_by_one_node() -> None:
    block, X = square_builder()
    graph = block.build(gi.reduce_sum(gi.multiply(X, X, name="Y"), name="L"))
    assert gradient(graph, [1, 2, -3]).tolist() == [2, 4, -6]


def test_a_value_used_three_times_by_one_node() -> None:
    block, X = square_builder()
    graph = block.build(gi.reduce_sum(gi.add(X, X, X, name="Y"), name="L"))
    assert gradient(graph, [1, 2, -3]).tolist() == [3, 3, 3]


def test_several_uses_are_summed_by_one_node_that_says_why() -> None:
    block, X = square_builder()
    Y = gi.add(gi.multiply(X, X, name="Y"), gi.exponential(X, name="E"), gi.scale(X, by=3.0, name="S"), name="Z")
    graph = block.build(gi.reduce_sum(Y, name="L"))
    joint = autodiff(graph, wrt=["X"])
    (total,) = [node for node in joint.nodes if node.outputs[0].name == "dX"]
    assert total.operator is gi.add
    assert total.meta.why == "several uses"
    assert [value.name for value in total.inputs] == ["dX.Y.1", "dX.Y", "dX.E", "dX.S"]
    x = np.array([0.5, 1.0, -1.0])
    assert np.allclose(gradient(graph, x), 2 * x + np.exp(x) + 3, rtol=1e-14)


def test_the_loss_itself_and_a_gradient_through_it() -> None:
    block = gi.Builder("scalar", dtype="float64")
    X = block.input("X")
    joint = autodiff(block.build(gi.multiply(X, X, name="L")), wrt=["X"])
    run = gi.compile(joint, {})
    assert run({"X": 3.0})["dX"] == 6
    assert gi.compile(joint, {}, fetch=["dL"])({"X": 3.0})["dL"] == 1


# -- names, and what is computed --------------------------------------------------------------------------


def test_a_parameter_and_its_gradient_share_scope_and_type() -> None:
    joint = autodiff(gi.models.transformer(2))
    for value in joint.parameters:
        found = joint[f"{value.scope}/d{value.local_name}"]
        assert found.type == value.type
        assert found in joint.outputs


def test_backward_nodes_know_what_they_belong_to() -> None:
    graph = gi.models.transformer(1)
    joint = autodiff(graph)
    for node in joint.nodes:
        assert node.meta.phase == (FORWARD if node.name in graph.values else BACKWARD)
        if node.meta.phase == BACKWARD and node.inputs:
            assert node.meta.of in graph.values
            assert node.meta.at.startswith("graphir/models/parts/")
    matmul = next(node for node in joint.nodes if node.operator is d_matmul)
    assert [value.name for value in matmul.inputs] == ["output/A_out", "output/W_lm", "output/dZ_lin"]
    assert matmul.meta.of == "output/Z_lin"


def test_a_block_has_its_own_part_of_what_flows_into_it() -> None:
    joint = autodiff(gi.models.transformer(1, dtype="float64"))
    arrays = arguments(joint)
    names = ["embedding/dX", "layer0/mha/dX", "layer0/mlp/dX", "layer0/dX_mid", "layer0/dX_out", "output/dX"]
    run = gi.compile(joint, SIZES, fetch=names)(arrays)
    assert np.allclose(run["embedding/dX"], run["layer0/mha/dX"] + run["layer0/dX_mid"], rtol=1e-13)
    assert np.allclose(run["layer0/dX_mid"], run["layer0/mlp/dX"] + run["layer0/dX_out"], rtol=1e-13)
    assert joint["output/dX"] is joint["layer0/dX_out"]


def test_nothing_is_computed_that_no_gradient_needs() -> None:
    joint = autodiff(gi.models.transformer(1))
    backward = [node for node in joint.nodes if node.meta.phase == BACKWARD]
    assert backward == [node for node in needed_nodes(joint, joint.outputs) if node.meta.phase == BACKWARD]
    # Embedding's ids, masks and statistics get none; nor does the decoding branch.
    assert not {"dT", "output/dP", "output/dids", "embedding/dX.m"}.intersection(joint.values)


def test_one_gradient_alone_needs_fewer_nodes() -> None:
    graph = gi.models.transformer(2)
    joint = autodiff(graph, wrt=["output/b_lm"])
    added = [node.operator.key for node in joint.nodes if node.meta.phase == BACKWARD]
    assert added == ["one", "dDiv", "BC", "dCE", "dAddB", "sum"]
    whole = autodiff(graph)
    arrays = initialize(graph, SIZES, seed=3)
    batch = {name: array for name, array in arguments(graph).items() if name in ("T", "Y", "seed", "step")}
    few, all_ = gi.compile(joint, SIZES)(arrays, batch), gi.compile(whole, SIZES)(arrays, batch)
    assert same_bits(few["output/db_lm"], all_["output/db_lm"])


def test_a_matmul_by_a_constant_makes_one_product_only() -> None:
    block = gi.Builder("constant")
    X, W = block.input("X", (2, 3)), block.parameter("W", (3, 4))
    joint = autodiff(block.build(gi.reduce_sum(gi.matmul(X, W, name="Y"), name="L")))
    (node,) = [node for node in joint.nodes if node.operator is d_matmul]
    assert [value.name for value in node.outputs] == ["dW"]
    assert [value.name for value in node.inputs] == ["X", "dY"]
    assert "dX" not in joint


def test_gradients_with_respect_to_an_activation() -> None:
    graph = gi.models.transformer(1, dtype="float64")
    joint = autodiff(graph, wrt=["embedding/X_tok", "embedding/E"])
    assert [value.name for value in joint.outputs] == ["output/L", "embedding/dX_tok", "embedding/dE"]
    arrays = arguments(graph)
    whole = gi.compile(autodiff(graph), SIZES, fetch=["embedding/dX_tok"])(arrays)
    part = gi.compile(joint, SIZES)(arrays)
    assert same_bits(part["embedding/dX_tok"], whole["embedding/dX_tok"])


def test_differentiating_leaves_the_graph_as_it_was() -> None:
    graph, again = gi.models.transformer(2), gi.models.transformer(2)
    nodes = graph.nodes
    joint = autodiff(graph)
    assert graph == again
    assert graph.nodes is nodes
    assert autodiff(graph) == joint
    gi.verify(joint)


def test_a_chosen_loss_joins_the_outputs() -> None:
    block = gi.Builder("two", dtype="float64")
    X = block.parameter("X", (3,))
    first, second = gi.reduce_sum(X, name="first"), gi.reduce_sum(gi.multiply(X, X, name="Y"), name="second")
    joint = autodiff(block.build(first), loss="second")
    assert [value.name for value in joint.outputs] == ["first", second.name, "dX"]


# -- lower and dce --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", TRANSFORMERS[:2], ids=lambda options: " ".join(options))
def test_lowered_it_computes_the_same_without_composite_nodes(options: dict[str, object]) -> None:
    joint = autodiff(gi.models.transformer(**{"layers": 1, **options, "dtype": "float64"}))
    lowered = run_passes(joint, [lower])
    assert any(node.operator.lower for node in joint.nodes)
    assert not any(node.operator.lower for node in lowered.nodes)
    assert [value.name for value in lowered.outputs] == [value.name for value in joint.outputs]
    arrays = arguments(joint)
    before, after = gi.compile(joint, SIZES)(arrays), gi.compile(lowered, SIZES)(arrays)
    for name in before:
        # What is zero but for rounding has no digits to compare: a bias on K.
        assert distance(after[name], before[name]) <= 1e-12 or name == "layer0/mha/db_K"
    made = [node for node in lowered.nodes if node.meta.why == "dMatmul taken apart"]
    assert made
    assert all(node.meta.phase == BACKWARD for node in made)


def test_pruned_it_keeps_what_the_outputs_need_and_no_more() -> None:
    model = gi.models.transformer(1)
    pruned = dce(model)
    assert "output/ids" in model
    assert "output/ids" not in pruned
    assert pruned.arguments[0].name == model.arguments[0].name
    assert list(pruned.nodes) == needed_nodes(pruned, pruned.outputs)
    assert dce(pruned) == pruned
    only = dce(model, ["embedding/X_tok"])
    assert [node.name for node in only.nodes] == ["embedding/X_tok"]


# -- what is refused --------------------------------------------------------------------------------------


def test_through_a_choice_of_tokens_there_is_no_gradient() -> None:
    """ids are integers, so no gradient ever arrives at ARG; the message finds it nevertheless."""
    block = gi.Builder("choice")
    W, E = block.parameter("W", (4, 5)), block.parameter("E", (5, 3))
    ids = gi.argmax(gi.softmax(W, name="P"), name="ids")
    X = gi.lookup(E, ids, name="X")
    graph = block.build(gi.reduce_sum(X, name="L"))
    with pytest.raises(DifferentiationError) as caught:
        autodiff(graph)
    line, path, advice = str(caught.value).splitlines()
    assert line.startswith("ids = ARG(…) (tests/passes/test_autodiff.py:")
    assert line.endswith(") has no gradient: a choice of a token is not differentiable.")
    assert path == "  The loss depends on it by L <- X <- ids."
    assert advice == "  Take it out of that path, or leave what lies behind it out of wrt."
    assert autodiff(graph, wrt=["E"])["dE"].type == E.type


def test_what_has_no_gradient_is_named_with_the_path_and_the_line() -> None:
    block = gi.Builder("path")
    W = block.parameter("W", (4, 5))
    n = gi.square_sum(gi.softmax(W, name="P"), name="n")
    graph = block.build(gi.scale(n, by=2.0, name="L"))
    with pytest.raises(DifferentiationError) as caught:
        autodiff(graph)
    line, path, _ = str(caught.value).splitlines()
    assert line.startswith("n = square_sum(…) (tests/passes/test_autodiff.py:")
    assert line.endswith(") has no gradient: an optimizer's update is not differentiated.")
    assert path == "  The loss depends on it by L <- n."


def test_a_cached_statistic_carries_no_gradient() -> None:
    block = gi.Builder("statistic")
    W = block.parameter("W", (4, 5))
    gamma, beta = block.parameter("gamma", (5,)), block.parameter("beta", (5,))
    _, mean, _ = gi.layer_norm.all(W, gamma, beta, names=["H", "mean", "rstd"])
    graph = block.build(gi.reduce_sum(mean, name="L"))
    with pytest.raises(DifferentiationError, match="its output mean is a cached statistic, which carries no gradient"):
        autodiff(graph, wrt=["W"])


def test_an_int_has_no_gradient() -> None:
    graph = gi.models.transformer(1)
    with pytest.raises(DifferentiationError, match=r"T is int64\[B, S\]: only floats have gradients"):
        autodiff(graph, wrt=["T"])


def test_a_parameter_that_the_loss_does_not_read() -> None:
    block = gi.Builder("unread")
    X, _ = block.parameter("X", (3,)), block.parameter("W", (3,))
    graph = block.build(gi.reduce_sum(X, name="L"))
    with pytest.raises(DifferentiationError, match="the loss L does not depend on W; leave it out of wrt"):
        autodiff(graph)
    with pytest.raises(DifferentiationError, match="the loss L does not depend on W; leave it out of wrt"):
        autodiff(graph, wrt=["W"])


def test_a_loss_is_one_float_scalar() -> None:
    block = gi.Builder("tensor")
    X = block.parameter("X", (3,))
    Y = gi.scale(X, by=2.0, name="Y")
    graph = block.build(Y)
    with pytest.raises(DifferentiationError, match=r"needs exactly one scalar float output .* outputs: Y float32\[3\]"):
        autodiff(graph)
    with pytest.raises(DifferentiationError, match=r"must be a float scalar, but Y is float32\[3\]; sum it first"):
        autodiff(graph, loss="Y")
    with pytest.raises(gi.GraphirError, match="graph tensor has no value called 'Z'"):
        autodiff(graph, loss="Z")


def test_a_block_without_a_loss_takes_the_gradients_of_its_results() -> None:
    """The same bits as of a loss Σ Y ⊙ dY; a result that another is made of has none that could be handed in."""

    def block(loss: bool) -> gi.Graph:
        builder = gi.Builder("block", dtype="float64")
        B, D = gi.dims("B D")
        X = builder.input("X", (B, D))
        H = gi.activation(gi.matmul(X, builder.parameter("W", (D, D)), name="Z"), kind="silu", name="H")
        Y = gi.matmul(H, builder.parameter("V", (D, D)), name="Y")
        if not loss:
            return builder.build(Y, H)
        weighted = gi.multiply(Y, builder.input("G", (B, D)), name="weighted")
        return builder.build(gi.reduce_sum(weighted, name="L"))

    sizes, draw = {"B": 3, "D": 4}, np.random.default_rng(0)
    arrays = {name: draw.standard_normal((3 if name == "X" else 4, 4)) for name in "XWV"}
    given = draw.standard_normal((3, 4))
    alone = with_gradients(block(loss=False))
    assert [value.name for value in alone.inputs] == ["X", "dY"]
    assert [value.name for value in alone.outputs] == ["Y", "H", "dX", "dW", "dV"]
    found = gi.compile(alone, sizes, backend="reference")(arrays, {"dY": given})
    summed = autodiff(block(loss=True), wrt=["X", "W", "V"])
    wanted = gi.compile(summed, sizes, backend="reference")(arrays, {"G": given})
    for name in ("dX", "dW", "dV"):
        assert same_bits(found[name], wanted[name])
    with pytest.raises(DifferentiationError, match="the result H is read on the way to another"):
        autodiff(block(loss=False), results=["Y", "H"])
    assert with_gradients(alone) is alone
    assert with_gradients(block(loss=True)) == autodiff(block(loss=True))


def test_a_block_has_no_gradients_of_what_its_operators_take_as_given() -> None:
    def block(*, elsewhere: bool) -> gi.Graph:
        builder = gi.Builder("turned")
        B, S, P = gi.dims("B S P")
        X = builder.input("X", (B, S, 2 * P))
        cos, sin = (builder.input(name, (B, S, P)) for name in ("cos", "sin"))
        Y = gi.rope(gi.matmul(X, builder.parameter("W", (2 * P, 2 * P))), cos, sin, name="Y")
        return builder.build(Y, *([gi.multiply(cos, sin, name="more")] if elsewhere else ()))

    assert [value.name for value in with_gradients(block(elsewhere=False)).outputs] == ["Y", "dX", "dW"]
    # What has a gradient by another way as well has none that is whole.
    with pytest.raises(DifferentiationError, match="it declares no gradient for its operand cos"):
        with_gradients(block(elsewhere=True))
