"""Products that everybody reads in 16 bits are stored in 16 bits, and not a bit of any result changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.passes import (
    autodiff,
    dce,
    mixed_precision,
    round_products,
    run_pipeline,
    separate_products,
    shard,
    unfuse,
)

pytest.importorskip("ml_dtypes")

M, K, N = gi.dims("M K N")
SIZES = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 16, "V": 11}


def product(graph: gi.Builder) -> gi.Value:
    """Y [M, N], float32, of 16-bit operands."""
    X, W = graph.input("X", (M, K)), graph.parameter("W", (K, N))
    operands = (gi.cast(X, to="bfloat16", name="X.narrow"), gi.cast(W, to="bfloat16", name="W.narrow"))
    return gi.matmul(*operands, dtype="float32", name="Y")


def values(graph: gi.Graph) -> dict[str, str]:
    """Each value's maker and dtype."""
    return {value.name: f"{node.operator.key} {value.dtype}" for node in graph.nodes for value in node.outputs}


def test_a_cast_product_is_stored_narrow_and_so_are_the_views_between() -> None:
    builder = gi.Builder("rounded")
    Y = product(builder)
    one, other = gi.cast(Y, to="bfloat16", name="one"), gi.transpose(Y, name="Y.T")
    square = gi.matmul(one, gi.cast(other, to="bfloat16", name="two"), dtype="float32", name="Z")
    found = values(gi.verify(round_products(builder.build(square))))
    assert found == {
        "X.narrow": "cast bfloat16",
        "W.narrow": "cast bfloat16",
        "Y": "matmul bfloat16",
        "Y.T": "T bfloat16",
        "Z": "matmul float32",
    }


@pytest.mark.parametrize(
    "why", ["a wide reader", "a wide reader of a view", "another dtype", "an output", "a cast output"]
)
def test_what_somebody_wants_wide_stays_wide(why: str) -> None:
    builder = gi.Builder("wide")
    Y = product(builder)
    one = gi.cast(Y, to="float16" if why == "another dtype" else "bfloat16", name="one")
    outputs = [gi.reduce_sum(one, name="L")]
    if why == "a wide reader":
        outputs.append(gi.reduce_sum(Y, name="sum"))
    elif why == "a wide reader of a view":
        outputs.append(gi.reduce_sum(gi.transpose(Y, name="Y.T"), name="sum"))
    elif why == "an output":
        outputs.append(Y)
    elif why == "a cast output":
        outputs.append(one)
    graph = builder.build(*outputs)
    assert round_products(graph) is graph


def step(dtype: str = "bfloat16", **options: Any) -> gi.Graph:
    return autodiff(mixed_precision(gi.models.transformer(2, dropout=0.1, decode=None, **options), dtype))


def arguments(graph: gi.Graph) -> tuple[dict[str, Any], dict[str, Any]]:
    ids = np.arange(8).reshape(2, 4)
    return gi.initialize(graph, SIZES), {"T": ids, "Y": ids + 1, "seed": 1, "step": 1}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["reference", "numpy", "numba"])
def test_results_are_the_same_bit_for_bit(dtype: str, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    graph = step(dtype)
    rounded = gi.verify(round_products(separate_products(graph)))
    casts = [sum(node.operator.key == "cast" for node in each.nodes) for each in (graph, rounded)]
    # Of each layer Q, K, V and AO, and the gradients of all four.
    assert casts[0] - casts[1] == 2 * 8
    options: dict[str, Any] = {"backend": "reference"}
    if backend != "reference":
        options = {"kernels": backend, "without": ["round_products"]}
    wanted, found = (gi.compile(each, SIZES, **options)(*arguments(graph)) for each in (graph, rounded))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_graph_of_one_precision_is_left_alone() -> None:
    graph = step("float32")
    assert round_products(graph) is graph


def test_pending_sums_stay_wide() -> None:
    """A row-parallel product is rounded when its sum is formed, not before."""
    sharded = shard(dce(step()), gi.Mesh(tp=2), "megatron", SIZES)
    graph = gi.verify(round_products(separate_products(sharded)))
    added_up = [value.dtype for node in graph.nodes if node.operator.key == "AR" for value in node.inputs]
    assert len(added_up) == 8
    assert set(added_up) == {"float32"}


def test_it_is_one_of_the_optimising_passes() -> None:
    graph = step()
    with_, without = run_pipeline(graph), run_pipeline(graph, without=["round_products"])
    kinds = [[node.operator.key for node in unfuse(each).nodes].count("cast") for each in (with_, without)]
    assert kinds[0] < kinds[1]
