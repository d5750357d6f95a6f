"""Attention's core, norms, rotary positions and caches as the operators that ONNX has for them; and what is none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.hub import open_model
from tests.support.hub import FOLDERS

pytestmark = pytest.mark.slow
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from graphir.export.onnx import to_onnx  # noqa: E402
from tests.support import onnx_runs  # noqa: E402

B, S, S_K = 2, 7, 12
#: How many of a folder's model there are: two layers each, Q and K turned, norms before, after and of heads.
WANTED = {
    "bert": {"Attention": 2},
    "gemma2": {"Attention": 2, "RMSNormalization": 9, "RotaryEmbedding": 4, "TensorScatter": 4},
    "llama": {"Attention": 2, "RMSNormalization": 5, "RotaryEmbedding": 4, "TensorScatter": 4},
    "phi3": {"Attention": 2, "RMSNormalization": 5, "RotaryEmbedding": 4, "TensorScatter": 4},
    "qwen3": {"Attention": 2, "RMSNormalization": 9, "RotaryEmbedding": 4, "TensorScatter": 4},
}


def kinds(model: Any) -> Counter[str]:
    return Counter(each.op_type for each in model.graph.node)


def drawn(graph: gi.Graph, sizes: dict[str, int]) -> dict[str, Any]:
    """Positions in any order, keys that no query has reached, rows that see none; what else a model reads."""
    rng, arrays = np.random.default_rng(7), {}
    for value in (*graph.inputs, *graph.state):
        shape = [each.size(sizes) for each in value.shape]
        array: Any
        match value.name:
            case "positions":
                array = np.stack([rng.permutation(S) for _ in range(B)])
            case "key_positions":
                array = np.where(rng.random(shape) < 0.3, 1 << 30, rng.integers(0, S, shape))
            case "start":
                array = np.array([0, S_K - 3])
            case "keep":
                array = rng.random(shape) < 0.6
                array[0] = False
            case _:
                array = rng.standard_normal(shape) if value.type.is_float else rng.integers(0, 2, shape)
        arrays[value.name] = array.astype(value.dtype)
    return arrays


@pytest.mark.parametrize("folder", WANTED)
def test_families_are_written_in_onnxs_own_operators(folder: str) -> None:
    opened = open_model(FOLDERS / folder)
    cached = folder != "bert"
    usage: dict[str, Any] = {"cached": True} if cached else {"mask": "padding"}
    graph = opened.blueprint.graph(loss=False, decode=None, **usage)
    sizes = dict(opened.blueprint.bind(graph, B=B, S=S, **({"S_k": S_K} if cached else {})))
    arrays = {each.name: opened.arrays()[each.name] for each in graph.parameters}
    fetch = [opened.blueprint.composition.answer, *(each.name for each in graph.updates.values())]
    inputs = drawn(graph, sizes)
    wanted = gi.compile(graph, sizes, fetch=fetch, backend="reference")(arrays, inputs)
    for opset, own in ((None, WANTED[folder]), (22, {"Softmax": 2})):
        model = to_onnx(graph, opened.blueprint.bind(graph), fetch=fetch, parameters=arrays, opset=opset)
        onnx_runs.check(model)
        found = kinds(model)
        every = {*WANTED["llama"], "Softmax"}
        assert {kind: count for kind, count in found.items() if kind in every} == own
        for engine in (onnx_runs.run, onnx_runs.evaluate):
            out = engine(model, inputs)
            for name in fetch:
                onnx_runs.assert_close(out[name], wanted[name], 5e-6, f"{name} of {folder} by {engine.__name__}")


def test_layers_that_see_the_same_share_a_mask() -> None:
    opened = open_model(FOLDERS / "gemma2")
    graph = opened.blueprint.graph(loss=False, decode=None)
    model = to_onnx(graph, opened.blueprint.bind(graph), fetch=[opened.blueprint.composition.answer])
    # One of a window and one without.
    assert kinds(model)["LessOrEqual"] == 2
    masks = {each.input[3] for each in model.graph.node if each.op_type == "Attention"}
    assert len(masks) == 2
    (capped,) = {
        attribute.f for each in model.graph.node for attribute in each.attribute if attribute.name == "softcap"
    }
    assert capped == opened.blueprint.composition.attention.cap


def core(mask: str = "none", causal: bool = True, dtype: str = "float32") -> gi.Graph:
    """Attention's core alone."""
    B_, N, S_, S_K_, D = gi.dims("B N S S_k D_h")
    block = gi.Builder("core")
    Q = block.input("Q", (B_, N, S_, D), dtype)
    K, V = (block.input(name, (B_, N, S_K_, D), dtype) for name in "KV")
    keep = {"given": (S_, S_K_), "padding": (B_, S_K_), "each": (B_, S_, S_K_)}.get(mask)
    operands = [] if keep is None else [block.input("keep", keep, "bool")]
    A = gi.matmul(Q, gi.transpose(K), name="A")
    Z = gi.scale_mask(A, *operands, width=D, causal=causal, mask=mask, name="Z")
    return block.build(gi.matmul(gi.softmax(Z, name="P"), V, name="O"))


@pytest.mark.parametrize("mask", ["none", "given", "padding", "each"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", [5, 8])
def test_every_mask_is_written_as_it_is(mask: str, causal: bool, keys: int) -> None:
    graph = core(mask, causal)
    model = to_onnx(graph, {"D_h": 6, "N": 3})
    onnx_runs.check(model)
    assert kinds(model)["Attention"] == 1
    rng = np.random.default_rng(keys)
    sizes = {"B": 2, "N": 3, "S": 5, "S_k": keys, "D_h": 6}
    inputs = {
        each.name: rng.standard_normal([size.size(sizes) for size in each.shape]).astype("float32")
        for each in graph.inputs
    }
    if "keep" in inputs:
        inputs["keep"] = inputs["keep"] > 0
        inputs["keep"][0] = False
    wanted = gi.compile(graph, sizes, backend="reference")({}, inputs)["O"]
    for engine in (onnx_runs.run, onnx_runs.evaluate):
        onnx_runs.assert_close(engine(model, inputs)["O"], wanted, 2e-6, engine.__name__)


def test_a_square_of_scores_is_causal_by_an_attribute() -> None:
    B_, N, S_, D = gi.dims("B N S D_h")
    block = gi.Builder("square")
    Q, K, V = (block.input(name, (B_, N, S_, D)) for name in "QKV")
    Z = gi.scale_mask(gi.matmul(Q, gi.transpose(K)), width=D, causal=True)
    model = to_onnx(block.build(gi.matmul(gi.softmax(Z), V, name="O")), {"D_h": 6, "N": 3})
    (attention,) = (each for each in model.graph.node if each.op_type == "Attention")
    assert {each.name: each.i for each in attention.attribute if each.name == "is_causal"} == {"is_causal": 1}
    assert len(attention.input) == 3


def test_what_somebody_reads_within_is_written_node_by_node() -> None:
    graph = core()
    sizes = {"D_h": 6, "N": 3}
    assert kinds(to_onnx(graph, sizes, fetch=["O", "P"]))["Attention"] == 0
    assert kinds(to_onnx(graph, sizes, fetch=["O", "Z"]))["Attention"] == 0
    # In float64 the factor of scores would have the digits of float32.
    assert kinds(to_onnx(core(dtype="float64"), sizes))["Attention"] == 0
