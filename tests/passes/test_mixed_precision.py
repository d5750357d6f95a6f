"""Mixed precision: what becomes narrow, what it computes, on one rank and on several.

u is the distance of two neighbouring numbers at 1: 2⁻⁷ in bfloat16, 2⁻¹⁰ in float16.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.checking.reference import on_one_rank
from graphir.errors import ConfigError, InputError, MissingDependencyError, NonFiniteError, TypeCheckError
from graphir.extras import install
from graphir.ir.layout import Layout, Mesh
from graphir.passes import LEVELS, autodiff, complete_plan, dce, mixed_precision, recompute, run_pipeline, shard
from graphir.testing import check_operator

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

from tests.support.precision_cases import (  # noqa: E402  PyTorch first
    UNIT,
    B,
    D,
    F,
    S,
    block_arrays,
    distance,
    in_autocast,
    in_graphir,
    in_torch,
    product_of,
)

SIZES = {"B": 4, "S": 8, "D": 16, "N_H": 4, "D_ff": 32, "V": 12}
narrow = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def model(**options: Any) -> gi.Graph:
    return gi.models.transformer(**{"layers": 1, "decode": None, "dropout": 0.1, **options})


def batch() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {"T": rng.integers(0, 12, (4, 8)), "Y": rng.integers(0, 12, (4, 8)), "seed": 1, "step": 2}


# -- what becomes narrow ----------------------------------------------------------------------------------


@narrow
def test_products_read_narrow_and_nothing_else_does(dtype: str) -> None:
    graph = mixed_precision(model(), dtype)
    products = 0
    for node in graph.nodes:
        kinds = {value.dtype for value in node.inputs if value.type.is_float}
        made = {value.dtype for value in node.outputs if value.type.is_float}
        if node.operator.key == "matmul":
            products += 1
            assert (kinds, made) == ({dtype}, {"float32"})
        elif node.operator.key == "cast":
            assert (kinds, made) == ({"float32"}, {dtype})
        elif node.operator.view and kinds == {dtype}:
            assert made == {dtype}
        else:
            assert kinds | made <= {"float32"}, node
    assert products == 9
    assert {value.dtype for value in (*graph.parameters, *graph.outputs)} == {"float32"}
    assert [value.name for value in graph.outputs] == ["output/L"]


def test_each_value_is_cast_once_in_front_of_its_views() -> None:
    graph = mixed_precision(model(), "bfloat16")
    cast = [node.inputs[0].name for node in graph.nodes if node.operator.key == "cast"]
    assert len(cast) == len(set(cast))
    assert "layer0/mha/X_norm" in cast
    assert len([n for n in graph.nodes if graph["layer0/mha/X_norm.bfloat16"] in n.inputs]) == 3
    # Q = T(R(Q_lin)) is read by a product alone, so it is the view of a cast; so is the tied W_lm = T(E).
    assert str(graph["layer0/mha/Q"].type) == "bfloat16[B, N_H, S, D_h]"
    assert str(graph["output/W_lm"].type) == "bfloat16[D, V]"
    assert "layer0/mha/Q_lin" in cast
    assert "embedding/E" in cast
    lookup = next(node for node in graph.nodes if node.operator.key == "lookup")
    assert lookup.inputs[0] is graph["embedding/E"]


def test_a_view_that_is_read_wide_stays_wide() -> None:
    block = gi.Builder("two_readers")
    X, W = block.input("X", (B, D)), block.parameter("W", (B, D))
    W_T = gi.transpose(W, name="W_T")
    graph = mixed_precision(block.build(gi.matmul(X, W_T, name="Y"), gi.scale(W_T, by=2.0, name="Z")), "float16")
    assert graph["W_T"].dtype == "float32"
    assert [node.inputs[0].name for node in graph.nodes if node.operator.key == "cast"] == ["X", "W_T"]


def test_the_text_says_it_all_and_can_be_read_back() -> None:
    block = gi.Builder("map")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, F))
    graph = mixed_precision(block.build(gi.reduce_sum(gi.matmul(X, W, name="Y"), name="L")), "bfloat16")
    text = gi.to_text(autodiff(graph), meta=False)
    assert 'W.bfloat16   [D, D_ff] bfloat16  = cast(W) {to="bfloat16"}' in text
    assert 'Y            [B, D_ff]           = matmul(X.bfloat16, W.bfloat16) {dtype="float32"}' in text
    assert "dY.bfloat16  [B, D_ff] bfloat16  = cast(dY)" in text
    assert "dW           [D, D_ff]           = dMatmul(X.bfloat16, dY.bfloat16)" in text
    for each in (graph, autodiff(graph), autodiff(mixed_precision(model(), "float16"), loss_scale=8.0, dynamic=True)):
        assert gi.parse(gi.to_text(each)) == each
        gi.verify(each)


def test_float32_leaves_a_graph_as_it_is() -> None:
    graph = model()
    assert mixed_precision(graph, "float32") is graph


def test_what_is_narrow_already_stays_as_it_is() -> None:
    once = mixed_precision(model(), "float16")
    assert mixed_precision(once, "float16") == once


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixed_precision(model(), "int8"), "precision 'int8' is none of float32, bfloat16, float16"),
        (
            lambda: mixed_precision(autodiff(model()), "float16"),
            "graph transformer is differentiated already; mixed_precision comes first, then autodiff, then shard",
        ),
        (
            lambda: mixed_precision(shard(model(), Mesh(dp=2), "data"), "float16"),
            "graph transformer is sharded already; mixed_precision comes first, then autodiff, then shard",
        ),
    ],
)
def test_what_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message


def test_bfloat16_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mixed_precision(model(), "bfloat16")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingDependencyError) as caught:
        gi.compile(graph, SIZES)
    assert str(caught.value) == (
        "layer0/mha/X_norm.bfloat16 is bfloat16[B, S, D], and NumPy has no bfloat16 by itself: "
        f"{install('bfloat16')}, "
        "or run in float16 or float32"
    )


# -- products and casts -----------------------------------------------------------------------------------


def test_a_product_returns_the_dtype_that_is_asked_for() -> None:
    block = gi.Builder("product", dtype="bfloat16")
    X, W = block.input("X", (B, D)), block.input("W", (D, F))
    assert gi.matmul(X, W).dtype == "bfloat16"
    assert gi.matmul(X, W, dtype="float32").dtype == "float32"
    with pytest.raises(TypeCheckError, match=r"dtype='int64' of a product is no float; choose from bfloat16, float16"):
        gi.matmul(X, W, dtype="int64")


@narrow
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_sums_of_narrow_products_are_formed_in_float32(dtype: str, backend: str) -> None:
    block = gi.Builder("sum", dtype=dtype)
    X, W = block.input("X", (B, S, D)), block.input("W", (D, F))
    graph = block.build(gi.matmul(X, W, dtype="float32", name="wide"), gi.matmul(X, W, name="narrow"))
    # 1 + 4096 · 2⁻¹²: in 16 bits every term but the first would be lost.
    x = np.full((2, 3, 4097), 2.0**-12).astype(dtype)
    x[..., 0] = 1
    found = gi.compile(graph, {"B": 2, "S": 3, "D": 4097, "D_ff": 5}, backend=backend)(
        {"X": x, "W": np.ones((4097, 5), dtype)}
    )
    assert found["wide"].dtype == np.float32
    assert (found["wide"] == 2).all()
    assert found["narrow"].dtype == dtype
    assert (found["narrow"] == 2).all()


@pytest.mark.parametrize("key", ["cast", "matmul", "dMatmul"])
def test_the_declarations_hold(key: str) -> None:
    check_operator(gi.find_operator(key))


def test_a_gradient_is_rounded_where_it_meets_narrow_operands() -> None:
    block = gi.Builder("mixed")
    X, W = block.parameter("X", (B, D)), block.parameter("W", (D, F))
    X16 = gi.cast(X, to="float16", name="X16")
    A = gi.activation(X16, kind="relu", name="A")
    Y = gi.matmul(A, gi.cast(W, to="float16", name="W16"), dtype="float32", name="Y")
    twice = gi.add(Y, gi.matmul(X16, gi.cast(W, to="float16", name="W16_"), dtype="float32"), name="Z")
    graph = autodiff(block.build(gi.reduce_sum(twice, name="L")))
    # dGL reads X16, so dA comes in float16; what it makes is added to a float32 term in float32.
    assert graph["dA"].dtype == "float32"
    assert graph["dA.float16"].dtype == "float16"
    assert {graph[name].dtype for name in ("dX", "dW")} == {"float32"}
    sizes = {"B": 3, "D": 4, "D_ff": 5}
    arrays = {
        k: np.random.default_rng(1).integers(-3, 4, v).astype(np.float32) for k, v in (("X", (3, 4)), ("W", (4, 5)))
    }
    found = gi.compile(graph, sizes)(arrays)
    dY = np.ones((3, 5))
    assert np.array_equal(found["dX"], (dY @ arrays["W"].T) * ((arrays["X"] > 0) + 1.0))
    assert np.array_equal(found["dW"], (np.maximum(arrays["X"], 0) + arrays["X"]).T @ dY)


def test_a_bfloat16_that_is_no_number_is_found() -> None:
    block = gi.Builder("product", dtype="bfloat16")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, F))
    run = gi.compile(block.build(gi.matmul(X, W, name="Y")), {"B": 2, "D": 3, "D_ff": 4})
    x, w = np.full((2, 3), 1e38, "bfloat16"), np.full((3, 4), 1e38, "bfloat16")
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"Y bfloat16\[B, D_ff\] is the first value"):
        run.find_non_finite({"X": x, "W": w})
    with pytest.raises(InputError, match="X must be bfloat16, not float32; convert it on purpose"):
        run({"X": x.astype(np.float32), "W": w})


def test_casts_are_drawn() -> None:
    from graphir.drawing import to_dot

    text = to_dot(mixed_precision(gi.models.mlp(2), "float16"))
    assert text.count("cast") >= 4
    assert "W.float16" in text


# -- the numbers ------------------------------------------------------------------------------------------


@narrow
def test_widened_to_float64_it_is_the_graph_that_it_was(dtype: str) -> None:
    """Every cast to float64, the mixed graph has the plain one's gradients: nothing is wired otherwise."""
    plain, mixed = autodiff(model(dtype="float64")), autodiff(mixed_precision(model(), dtype))
    parameters = gi.initialize(plain, SIZES, 5)
    right = gi.compile(plain, SIZES, backend="reference")(parameters, batch())
    found = gi.compile(on_one_rank(mixed, "float64"), SIZES, backend="reference")(parameters, batch())
    assert set(found) == set(right)
    assert distance(found, right) < 1e-12


@narrow
def test_compiled_is_as_interpreted(dtype: str) -> None:
    graph = autodiff(mixed_precision(model(layers=2), dtype))
    parameters = gi.initialize(graph, SIZES, 5)
    right = gi.compile(graph, SIZES, backend="reference")(parameters, batch())
    for level in LEVELS:
        found = gi.compile(graph, SIZES, recompute=level, threads=2)(parameters, batch())
        # A sum that is rounded the other way moves a narrow element by u.
        assert distance(found, right) < UNIT[dtype] / 8
        assert all(found[name].dtype == right[name].dtype for name in right)


@narrow
def test_fused_kernels_leave_what_is_narrow_to_the_rules(dtype: str) -> None:
    pytest.importorskip("numba")
    graph = autodiff(mixed_precision(model(), dtype))
    parameters = gi.initialize(graph, SIZES, 5)
    right = gi.compile(graph, SIZES, backend="reference")(parameters, batch())
    found = gi.compile(graph, SIZES, kernels="numba")(parameters, batch())
    assert distance(found, right) < UNIT[dtype] / 8


def test_who_reads_a_cast_sees_it_rounded() -> None:
    """1 + 2⁻¹⁰ is no number of bfloat16: its cast there and back is 1, in whatever is fused around it."""
    block = gi.Builder("there_and_back")
    X = block.input("X", (B, D))
    Y = gi.cast(gi.cast(gi.scale(X, by=1.0), to="bfloat16"), to="float32")
    graph = block.build(gi.add(gi.scale(Y, by=-1.0), X, name="Z"))
    sizes, x = {"B": 64, "D": 128}, np.full((64, 128), 1 + 2.0**-10, np.float32)
    for options in ({"backend": "reference"}, {}, {"kernels": "numba"}):
        if "kernels" in options:
            pytest.importorskip("numba")
        assert (gi.compile(graph, sizes, **options)({"X": x})["Z"] == 2.0**-10).all()


@narrow
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_gradients_are_those_of_the_same_casts_in_pytorch(dtype: str, backend: str) -> None:
    arrays = block_arrays()
    right = in_torch(arrays, product_of(dtype))
    found = in_graphir(arrays, dtype, backend)
    for name, expected in right.items():
        assert found[name].dtype == np.float32
        gap = np.abs(found[name] - expected) / np.abs(expected).max()
        # Where PyTorch's float32 sum lies on the other side of a rounding, an element is off by u, else by nothing.
        assert gap.max() < 2 * UNIT[dtype]
        assert np.median(gap) < UNIT[dtype] / 64


def test_it_is_nearer_to_float64_than_autocast() -> None:
    """PyTorch's autocast also rounds the results of products, and gradients between them."""
    arrays = block_arrays()
    exact = in_torch(arrays, torch.matmul, wide=True)
    mine = in_graphir(arrays, "bfloat16", "numpy")
    assert 1e-4 < distance(mine, exact) < distance(in_autocast(arrays), exact) < 5 * UNIT["bfloat16"]


# -- what is kept for the backward pass --------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attentions_backward_pass_is_one_stream(dropout: float) -> None:
    """Softmax's result is held wide for its d-node; its cast, and dropout's, are made again, tile by tile."""
    graph = run_pipeline(dce(autodiff(mixed_precision(model(dropout=dropout), "bfloat16"))))
    cores = [node for node in graph.nodes if node.body is not None and "layer0/mha/dZ" in node.body]
    assert len(cores) == 1
    body = cores[0].body
    assert body is not None
    assert all(f"layer0/mha/{name}" in body for name in ("dV", "dQ", "dK", "AS_drop.bfloat16.again"))
    shape = graph["layer0/mha/AS"].shape
    stored = {value.name for node in graph.nodes for value in node.outputs if value.shape == shape}
    assert stored == {"layer0/mha/AS"}


def test_a_weights_cast_is_kept_and_so_is_that_of_what_is_read_narrow_only() -> None:
    graph = recompute(autodiff(mixed_precision(model(), "bfloat16")), "masks")
    made_again = {node.name for node in graph.nodes if node.operator.key == "cast" and "again" in node.name}
    assert made_again == {"layer0/mha/AS_drop.bfloat16.again"}


# -- several ranks ----------------------------------------------------------------------------------------

MESHES = {
    "data": Mesh(dp=2),
    "zero1": Mesh(dp=2),
    "zero3": Mesh(dp=2),
    "megatron": Mesh(tp=2),
    "column": Mesh(tp=2),
    "sequence": Mesh(dp=2, tp=2),
    "vocabulary": Mesh(tp=2),
    "context": Mesh(cp=2),
}


def sharded(graph: gi.Graph, plan: str) -> gi.Graph:
    mesh = MESHES[plan]
    return shard(dce(graph), mesh, complete_plan(plan, mesh), SIZES)


@pytest.mark.parametrize("plan", MESHES)
def test_ranks_compute_what_one_does(plan: str) -> None:
    graph = autodiff(mixed_precision(model(), "bfloat16"))
    parameters = gi.initialize(graph, SIZES, 5)
    right = gi.compile(graph, SIZES, backend="reference")(parameters, batch())
    for backend in ("reference", "numpy"):
        found = gi.compile(sharded(graph, plan), SIZES, backend=backend)(parameters, batch())
        assert distance({name: found[name] for name in right}, right) < UNIT["bfloat16"] / 8


@pytest.mark.parametrize("plan", MESHES)
def test_no_term_of_a_sum_is_rounded_before_the_sum_is_formed(plan: str) -> None:
    graph = sharded(autodiff(mixed_precision(model(), "bfloat16")), plan)
    for node in graph.nodes:
        if node.operator.key == "cast":
            assert not node.inputs[0].type.layout.pending
        if node.operator.key in ("AR", "RS"):
            assert node.inputs[0].dtype == "float32"


def gathered(graph: gi.Graph) -> Counter[tuple[str, str]]:
    """How many gathers there are, by dtype and phase."""
    return Counter((n.inputs[0].dtype, n.meta.phase) for n in graph.nodes if n.operator.key == "AG")


def test_zero_gathers_weights_in_16_bits() -> None:
    plain, mixed = (autodiff(each) for each in (model(), mixed_precision(model(), "bfloat16")))
    graph, before = sharded(mixed, "zero3"), gathered(sharded(plain, "zero3"))
    # W_Q, W_K, W_V, W_O, W_up, W_down and E for the tied output; all but the last again in the backward pass.
    assert gathered(graph)["bfloat16", "forward"] == 7
    assert gathered(graph)["bfloat16", "backward"] == 6
    assert gathered(graph)["float32", "backward"] == before["float32", "backward"] - 6
    for which in ("mha/W_Q", "mlp/W_down"):
        cast = graph.producers[graph[f"layer0/{which}.bfloat16"]]
        assert cast.inputs[0] is graph[f"layer0/{which}"]
        assert cast.inputs[0].type.layout == cast.outputs[0].type.layout == Layout([("dp",), ()])


def test_sequence_parallelism_gathers_in_16_bits() -> None:
    plain, mixed = (autodiff(each) for each in (model(), mixed_precision(model(), "bfloat16")))
    before, after = gathered(sharded(plain, "sequence")), gathered(sharded(mixed, "sequence"))
    assert after == {("bfloat16", phase): count for (_, phase), count in before.items()}


def test_a_wide_cast_of_a_narrow_parameter_is_gathered_first() -> None:
    block = gi.Builder("narrow")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, F), "bfloat16")
    graph = block.build(gi.matmul(X, gi.cast(W, to="float32", name="W32"), name="Y"))
    made = shard(graph, Mesh(dp=2), "zero3", {"B": 2, "D": 4, "D_ff": 6})
    assert [node.inputs[0].dtype for node in made.nodes if node.operator.key == "AG"] == ["bfloat16"]
