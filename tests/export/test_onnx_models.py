"""Models as ONNX: one file computes what graphir does for every B and S, and says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.errors import InputError
from graphir.passes import autodiff, fuse, mixed_precision
from graphir.text import fingerprint
from tests.support.own_operators import gated, rotary, rotary_interleaved, swiglu, unit_norm

pytestmark = pytest.mark.slow
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from graphir.export.onnx import save, to_onnx  # noqa: E402
from tests.support import onnx_runs  # noqa: E402

SIZES = {"D": 24, "N_H": 3, "D_ff": 40, "V": 61}
LONGEST = 20
LOGITS, IDS, LOSS = "output/Z_bias", "output/ids", "output/L"


def transformer(**options: Any) -> gi.Graph:
    return gi.models.transformer(2, dropout=0.0, **options)


def parameters(graph: gi.Graph, sizes: Mapping[str, int] = SIZES) -> dict[str, Any]:
    return dict(gi.initialize(graph, {**sizes, "B": 2, "S": LONGEST}, seed=1))


def drawn(graph: gi.Graph, B: int, S: int, seed: int = 0) -> dict[str, Any]:
    """Content for a Transformer's inputs; some labels count for nothing, some keys are no tokens."""
    rng = np.random.default_rng([seed, B, S])
    Y = rng.integers(0, SIZES["V"], (B, S))
    arrays = {"T": rng.integers(0, SIZES["V"], (B, S)), "Y": np.where(rng.random((B, S)) < 0.2, -100, Y)}
    arrays |= {"seed": np.asarray(0), "step": np.asarray(0)}
    keep = next((value for value in graph.inputs if value.name == "keep"), None)
    if keep is not None:
        shape = tuple({"B": B, "S": S}[str(each)] for each in keep.shape)
        arrays["keep"] = rng.random(shape) < 0.5
        arrays["keep"][0] = False
    return arrays


def computed(
    graph: gi.Graph, arrays: Mapping[str, Any], inputs: Mapping[str, Any], fetch: list[str], **sizes: int
) -> Any:
    """What graphir's interpreter computes, of parameters that are as long as the run."""
    every = {**SIZES, **sizes}
    fitting = {value.name: arrays[value.name] for value in graph.parameters}
    for value in graph.parameters:
        fitting[value.name] = fitting[value.name][tuple(slice(each.size(every)) for each in value.shape)]
    return gi.compile(graph, every, fetch=fetch, backend="reference")(fitting, inputs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "sinusoidal", "tied": False, "qkv_bias": True, "activation": "gelu"},
        {"mask": "padding", "final_norm": False, "activation": "silu"},
        {"mask": "given", "causal": False, "activation": "relu"},
        {"dtype": "float64", "positions": "sinusoidal"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_one_file_computes_every_batch_and_length(options: dict[str, Any]) -> None:
    graph = transformer(**options)
    arrays, fetch = parameters(graph), [LOGITS, IDS, LOSS]
    model = to_onnx(graph, SIZES, fetch=fetch, parameters=arrays)
    onnx_runs.check(model)
    tolerance = 1e-12 if options.get("dtype") == "float64" else 1e-5
    for B, S in ((1, 1), (2, 7), (3, LONGEST), (1, 13)):
        inputs = drawn(graph, B, S)
        wanted = computed(graph, arrays, inputs, fetch, B=B, S=S)
        for engine in (onnx_runs.run, onnx_runs.evaluate):
            found = engine(model, inputs)
            assert list(found) == fetch
            for name in fetch:
                onnx_runs.assert_close(found[name], wanted[name], tolerance, f"{name} of {B} x {S}")


def test_parameters_are_inputs_where_they_have_no_arrays() -> None:
    graph = transformer()
    model = to_onnx(graph, SIZES, fetch=[LOGITS])
    onnx_runs.check(model)
    assert [each.name for each in model.graph.input][1:] == [value.name for value in graph.parameters]
    arrays, inputs = parameters(graph), drawn(graph, 2, LONGEST)
    wanted = computed(graph, arrays, inputs, [LOGITS], B=2, S=LONGEST)[LOGITS]
    onnx_runs.assert_close(onnx_runs.run(model, {**arrays, **inputs})[LOGITS], wanted, 1e-5)


def test_32_tokens_drawn_greedily_are_graphirs() -> None:
    graph = gi.models.transformer(2, dropout=0.0, positions="sinusoidal")
    arrays = parameters(graph)
    model = to_onnx(graph, SIZES, fetch=[IDS], parameters=arrays)
    texts = []
    for step in (
        lambda T: onnx_runs.run(model, {"T": T})[IDS],
        lambda T: computed(graph, arrays, {**drawn(graph, *T.shape), "T": T}, [IDS], B=2, S=T.shape[1])[IDS],
    ):
        T = np.array([[5, 7], [11, 3]])
        for _ in range(32):
            T = np.concatenate([T, step(T)[:, -1:]], axis=1)
        texts.append(T)
    np.testing.assert_array_equal(*texts)
    assert len(set(texts[0][0])) > 2


def test_rows_that_see_no_key_are_0_as_in_graphir() -> None:
    graph = transformer(mask="padding")
    arrays, inputs, AS = parameters(graph), drawn(graph, 2, 6), "layer0/mha/AS"
    model = to_onnx(graph, SIZES, fetch=[AS], parameters=arrays)
    found = onnx_runs.run(model, inputs)[AS]
    assert not found[0].any()
    assert found[1].any()
    onnx_runs.assert_close(found, computed(graph, arrays, inputs, [AS], B=2, S=6)[AS], 1e-6)


def test_models_of_a_users_own_operators_are_exported_by_their_formulas() -> None:
    B, S, F, H = gi.dims("B S F H")
    D = gi.ir.dims.dim("D", 2 * F)
    block = gi.Builder("own")
    X, cos, sin = block.input("X", (B, S, D)), block.input("cos", (S, F)), block.input("sin", (S, F))
    normal = unit_norm(X, block.parameter("gamma", (D,), init="ones"), name="normal")
    turned = rotary_interleaved(rotary(normal, cos, sin, name="turned"), cos, sin, name="again")
    wide = gi.matmul(turned, block.parameter("W", (D, 2 * H)), name="wide")
    G = gi.matmul(swiglu(wide, name="half"), block.parameter("V", (H, D)), name="G")
    graph = block.build(gated(G, turned, name="Y"))
    sizes, rng = {"F": 5, "H": 7}, np.random.default_rng(0)
    arrays = gi.initialize(graph, {**sizes, "B": 1, "S": 1})
    model = to_onnx(graph, sizes, parameters=arrays)
    onnx_runs.check(model)
    for size in ((1, 1), (3, 4)):
        angle = rng.standard_normal((size[1], 5))
        inputs = {"X": rng.standard_normal((*size, 10)), "cos": np.cos(angle), "sin": np.sin(angle)}
        inputs = {name: array.astype("float32") for name, array in inputs.items()}
        run = gi.compile(graph, {**sizes, "B": size[0], "S": size[1]}, backend="reference")
        for engine in (onnx_runs.run, onnx_runs.evaluate):
            onnx_runs.assert_close(engine(model, inputs)["Y"], run(arrays, inputs)["Y"], 1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_products_of_16_bits_are_added_up_in_32(precision: str) -> None:
    pytest.importorskip("ml_dtypes")
    graph = mixed_precision(transformer(), precision)
    arrays, inputs = parameters(graph), drawn(graph, 2, 5)
    model = to_onnx(graph, SIZES, fetch=[LOGITS], parameters=arrays)
    onnx_runs.check(model)
    wanted = computed(graph, arrays, inputs, [LOGITS], B=2, S=5)[LOGITS]
    onnx_runs.assert_close(onnx_runs.evaluate(model, inputs)[LOGITS], wanted, 2e-3)


def test_what_the_forward_graph_needs_is_taken_of_others() -> None:
    graph = transformer()
    kinds = [
        sorted(each.op_type for each in to_onnx(of, SIZES, fetch=[LOGITS]).graph.node)
        for of in (graph, autodiff(graph), fuse(graph))
    ]
    assert kinds[0] == kinds[1] == kinds[2]


def test_what_is_handed_through_is_returned_and_what_is_asked_for_twice_once() -> None:
    block = gi.Builder("through")
    X = block.input("X", gi.dims("B"))
    graph = block.build(gi.exponential(X, name="Y"))
    model = to_onnx(graph, fetch=["Y", "X", "Y"])
    onnx_runs.check(model)
    found = onnx_runs.run(model, {"X": np.array([0.0, 1.0], "float32")})
    assert list(found) == ["Y", "X"]
    np.testing.assert_array_equal(found["X"], [0, 1])


# -- what the file says ----------------------------------------------------------------------------------


def test_names_dims_and_origin_are_the_graphs() -> None:
    graph = transformer()
    model = to_onnx(graph, SIZES, fetch=[LOGITS])
    assert (model.producer_name, model.producer_version) == ("graphir", gi.__version__)
    assert {each.key: each.value for each in model.metadata_props}["graphir.fingerprint"] == fingerprint(graph)
    shapes = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    assert shapes["T"] == ["B", "S"]
    assert shapes["layer1/mha/AO_heads"] == ["B", 3, "S", 8]
    assert shapes[LOGITS] == ["B", "S", 61]
    nodes = {each.name: each for each in model.graph.node}
    norm = nodes["layer0/mha/X_norm"]
    assert list(norm.output) == ["layer0/mha/X_norm"]
    first, *places = norm.doc_string.splitlines()
    assert first.startswith("H [*b, D] = γ ⊙ (X − μ) r + β")
    assert places[:2] == ["operator LN", "scope layer0/mha"]
    assert places[2].startswith("graphir/models/parts/")
    assert len(nodes) == len(model.graph.node)


def test_the_range_of_ids_is_noted_as_nobody_checks_it() -> None:
    graph = transformer()
    model = to_onnx(graph, SIZES, fetch=[LOGITS], parameters=parameters(graph))
    (T,) = model.graph.input
    assert T.doc_string == "int64[B, S], ids from 0 to 61 - 1"
    with pytest.raises(Exception, match="out of data bounds"):
        onnx_runs.run(model, {"T": np.array([[61]])})


def test_sizes_that_are_given_are_numbers() -> None:
    graph = transformer()
    model = to_onnx(graph, {**SIZES, "B": 2, "S": 5}, fetch=[LOGITS], parameters=parameters(graph))
    onnx_runs.check(model)
    assert "Shape" not in {each.op_type for each in model.graph.node}
    inputs = drawn(graph, 2, 5)
    wanted = computed(graph, parameters(graph), inputs, [LOGITS], B=2, S=5)[LOGITS]
    onnx_runs.assert_close(onnx_runs.run(model, inputs)[LOGITS], wanted, 1e-5)


def test_a_run_that_is_longer_than_the_positions_fails() -> None:
    graph = transformer()
    model = to_onnx(graph, SIZES, fetch=[LOGITS], parameters=parameters(graph))
    with pytest.raises(Exception, match="BC_P"):
        onnx_runs.run(model, {"T": np.zeros((1, LONGEST + 1), "int64")})


@pytest.mark.parametrize("opset", [18, 20, 24, None])
def test_every_opset_from_the_least_on_computes_the_same(opset: int | None) -> None:
    graph = transformer()
    arrays, inputs = parameters(graph), drawn(graph, 2, 7)
    model = to_onnx(graph, SIZES, fetch=[LOGITS], parameters=arrays, opset=opset)
    onnx_runs.check(model)
    wanted = computed(graph, arrays, inputs, [LOGITS], B=2, S=7)[LOGITS]
    onnx_runs.assert_close(onnx_runs.run(model, inputs)[LOGITS], wanted, 1e-5)


def test_a_file_is_read_back(tmp_path: Any) -> None:
    graph = transformer()
    save(graph, tmp_path / "model.onnx", SIZES, fetch=[LOGITS])
    (file,) = tmp_path.iterdir()
    read = onnx_runs.onnx.load(file)
    assert read == to_onnx(graph, SIZES, fetch=[LOGITS])


def test_arrays_that_do_not_fit_are_refused_by_name() -> None:
    graph = transformer()
    arrays = parameters(graph)
    with pytest.raises(InputError, match="parameters lacks layer0/mha/W_Q"):
        to_onnx(graph, SIZES, parameters={**arrays, "layer0/mha/W_Q": None})
    with pytest.raises(InputError, match=r"layer0/mha/W_Q is float64\[24, 24\], not float32"):
        to_onnx(graph, SIZES, parameters={**arrays, "layer0/mha/W_Q": np.zeros((24, 24))})
    with pytest.raises(InputError, match=r"layer0/mha/W_Q is float32\[24, 25\]"):
        to_onnx(graph, SIZES, parameters={**arrays, "layer0/mha/W_Q": np.zeros((24, 25), "float32")})
