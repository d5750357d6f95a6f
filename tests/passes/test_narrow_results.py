"""Mixed precision with narrow results: what products return in 16 bits, and how far that is from PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.errors import ConfigError
from graphir.passes import autodiff, complete_plan, dce, mixed_precision, recompute, shard

pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

from tests.support.precision_cases import UNIT, block_arrays, distance, in_autocast, in_graphir, in_torch, product_of

SIZES = {"B": 4, "S": 8, "D": 16, "N_H": 4, "D_ff": 32, "V": 12}
narrow = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def step(dtype: str = "bfloat16", results: str = "narrow", **options: Any) -> gi.Graph:
    model = gi.models.transformer(**{"layers": 1, "decode": None, "dropout": 0.1, **options})
    return autodiff(mixed_precision(model, dtype, results))


def arguments(graph: gi.Graph) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(3)
    given = {"T": rng.integers(0, 12, (4, 8)), "Y": rng.integers(0, 12, (4, 8)), "seed": 1, "step": 2}
    return gi.initialize(graph, SIZES, 5), given


def test_who_reads_a_product_wide_reads_a_cast() -> None:
    graph = gi.verify(step())
    made = {value.name: (node, value.dtype) for node in graph.nodes for value in node.outputs}
    # Q is read by a product, by way of views; the MLP's hidden layer by an activation; logits by a sum with a bias.
    assert (made["layer0/mha/Q_lin"][0].operator.key, made["layer0/mha/Q_lin"][1]) == ("matmul", "bfloat16")
    for name in ("layer0/mlp/Z_up_lin", "layer0/mha/A", "output/Z_lin"):
        cast, dtype = made[name]
        assert (cast.operator.key, dtype) == ("cast", "float32")
        product, narrow_dtype = made[f"{name}.bfloat16"]
        assert (product.operator.key, narrow_dtype) == ("matmul", "bfloat16")
        assert cast.inputs == product.outputs
        assert cast.meta.why == f"{name} = matmul(…) returns bfloat16"
    assert gi.parse(gi.to_text(graph)) == graph


def test_gradients_of_activations_are_narrow_and_those_of_weights_wide() -> None:
    graph = step()
    dtypes = {
        value.name: value.dtype for node in graph.nodes if node.operator.key == "dMatmul" for value in node.outputs
    }
    weights = {name for name in dtypes if name.split("/")[-1].startswith(("dW_", "dE"))}
    assert len(weights) == 7
    assert {dtypes[name] for name in weights} == {"float32"}
    assert {dtypes[name] for name in dtypes.keys() - weights} == {"bfloat16"}


def test_wide_results_are_what_there_was() -> None:
    model = gi.models.transformer(1, decode=None)
    assert mixed_precision(model, "bfloat16", "wide") == mixed_precision(model, "bfloat16")
    assert mixed_precision(model, "float32", "narrow") is model


def test_other_results_are_refused() -> None:
    with pytest.raises(ConfigError, match="results 'thin' is none of wide, narrow"):
        mixed_precision(gi.models.transformer(1, decode=None), "bfloat16", results="thin")


def test_less_is_held() -> None:
    """What the backward pass makes wide again of narrow products, and of their sums with biases, is held narrow."""
    sizes, layers = {**SIZES, "B": 32}, 4
    wide, thin = (gi.compile(step(results=each, layers=layers, dropout=0.0), sizes) for each in ("wide", "narrow"))
    assert isinstance(wide, CompiledExecutable)
    assert isinstance(thin, CompiledExecutable)
    # GELU's operand alone, [B, S, D_ff] in each layer, is two bytes an element less.
    assert wide.memory.arena - thin.memory.arena >= 2 * 32 * 8 * 32 * (layers - 1)
    again = {node.name for node in recompute(step(dropout=0.0)).nodes if node.name.endswith(".again")}
    assert {"output/Z_bias.again", "layer0/mlp/Z_up.again"} <= again


@narrow
@pytest.mark.parametrize("kernels", ["numpy", "numba"])
def test_compiled_is_as_interpreted(dtype: str, kernels: str) -> None:
    if kernels == "numba":
        pytest.importorskip("numba")
    graph = step(dtype)
    right = gi.compile(graph, SIZES, backend="reference")(*arguments(graph))
    found = gi.compile(graph, SIZES, kernels=kernels)(*arguments(graph))
    assert distance(found, dict(right)) < UNIT[dtype]


@narrow
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_gradients_are_those_of_the_same_roundings_in_pytorch(dtype: str, backend: str) -> None:
    arrays = block_arrays()
    right = in_torch(arrays, product_of(dtype, narrow=True))
    found = in_graphir(arrays, dtype, backend, "narrow")
    for name, expected in right.items():
        assert found[name].dtype == np.float32
        gap = np.abs(found[name] - expected) / np.abs(expected).max()
        # Sums on two sides of a rounding differ by u, and what is made of them by as much.
        assert gap.max() < 2 * UNIT[dtype]
        assert np.median(gap) < UNIT[dtype] / 16


def test_it_is_as_near_to_float64_as_autocast() -> None:
    arrays = block_arrays()
    exact = in_torch(arrays, lambda X, W: X @ W, wide=True)
    mine, theirs = in_graphir(arrays, "bfloat16", "numpy", "narrow"), in_autocast(arrays)
    assert 1e-4 < distance(mine, exact) < 1.1 * distance(theirs, exact)


PLANS = {"data+megatron": {"dp": 2, "tp": 2}, "sequence": {"tp": 2}, "zero3": {"dp": 2}}


@pytest.mark.parametrize("plan", PLANS)
def test_ranks_send_activations_in_16_bits_and_weights_gradients_in_32(plan: str) -> None:
    graph, mesh = step(), gi.Mesh(**PLANS[plan])
    sharded = shard(dce(graph), mesh, complete_plan(plan, mesh), SIZES)
    right = gi.compile(graph, SIZES, backend="reference")(*arguments(graph))
    found = gi.compile(sharded, SIZES)(*arguments(graph))
    assert distance({name: found[name] for name in right}, dict(right)) < 2 * UNIT["bfloat16"]
    for node in sharded.nodes:
        if node.operator.key in ("AR", "RS") and len(node.outputs[0].shape) > 1:
            of_weight = node.outputs[0].name.split("/")[-1].startswith(("dW_", "dE", "dP_"))
            assert of_weight == (node.inputs[0].dtype == "float32"), node
