"""Weights held as they are stored: the numbers of the same weights widened, and nowhere a whole one in more bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.backends.compiled.tiles import Tiling
from graphir.errors import ConfigError
from graphir.ir.value import of_stored
from graphir.passes import adapters, as_stored, autodiff, find_plan, lora, shard

pytest.importorskip("ml_dtypes", reason="the extra `bfloat16` is not installed")

Array = NDArray[Any]
SIZES = {"B": 3, "S": 5, "V": 40, "D": 24, "F": 72, "r": 2}
#: Tiles of a few columns, so that small sizes have many.
NARROW = Tiling(bytes=1 << 10, casts=1 << 9, small=0, causal=(4, 8))


def block(tied: bool = True) -> gi.Graph:
    """Rows that are looked up, two products with an activation between, and a head, which may be the same matrix."""
    B, S, V, D, F = gi.dims("B S V D F")
    build = gi.Builder("block")
    T, Y = build.input("T", (B, S), "int64"), build.input("Y", (B, S), "int64")
    E, gamma = build.parameter("E", (V, D)), build.parameter("gamma", (D,), init="ones")
    X = gi.rms_norm(gi.lookup(E, T, name="X"), gamma, name="X_norm")
    H = gi.activation(gi.matmul(X, build.parameter("U", (D, F)), name="H_lin"), kind="silu", name="H")
    A = gi.matmul(H, build.parameter("W", (F, D)), name="A")
    Z = gi.matmul(A, gi.transpose(E) if tied else build.parameter("W_lm", (D, V)), name="Z")
    return build.build(gi.reduce_sum(gi.cross_entropy(Z, Y), name="L"))


def held(graph: gi.Graph, dtype: str, transposed: str) -> gi.Graph:
    names = [each.name for each in block(tied=False).parameters]
    return as_stored(graph, {name: (dtype, name in transposed.split()) for name in names})


def arguments(graph: gi.Graph, dtype: str) -> dict[str, Array]:
    """Numbers that 16 bits hold, by the names that `graph` has them under, stored or not."""
    draw = np.random.default_rng(0)
    found: dict[str, Array] = {name: draw.integers(0, SIZES["V"], (3, 5)) for name in ("T", "Y")}
    dims = {each.name: each for each in lora(block(tied=False)).parameters}
    for name, value in dims.items():
        W = 0.3 * draw.standard_normal([dim.size(SIZES) for dim in value.shape])
        found[name] = W.astype(dtype).astype(np.float32)
    for each in graph.parameters:
        name = of_stored(each.name)
        if name is not None:
            W = found[name]
            found[each.name] = np.ascontiguousarray(W if each.shape == dims[name].shape else W.T, dtype)
    return {each.name: found[each.name] for each in graph.arguments}


def outcome(graph: gi.Graph, dtype: str, **options: Any) -> dict[str, Array]:
    names = {name: SIZES[name] for name in SIZES if name != "r" or "U.A" in graph}
    run = gi.compile(graph, names, **options)(arguments(graph, dtype))
    return {each.name: run[each.name] for each in graph.outputs}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("transposed", ["U W W_lm", ""])
def test_the_interpreter_has_the_very_numbers_of_the_widened(dtype: str, transposed: str) -> None:
    graph = lora(block(tied=bool(transposed)))
    wrt = [name for pair in adapters(graph).values() for name in pair]
    stored = held(graph, dtype, transposed)
    assert adapters(stored) == adapters(graph)
    wide, narrow = (outcome(autodiff(each, wrt=wrt), dtype, backend="reference") for each in (graph, stored))
    assert narrow.keys() == wide.keys() > {"L", "dU.A", "dW.B"}
    assert all(np.array_equal(narrow[name], wide[name]) for name in wide)


@pytest.mark.parametrize("transposed", ["U W", ""])
@pytest.mark.parametrize("tiling", [None, NARROW])
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_it_has_them_but_for_the_order_of_sums(transposed: str, tiling: Tiling | None, threads: int) -> None:
    graph = lora(block())
    wrt = [name for pair in adapters(graph).values() for name in pair]
    stored = autodiff(held(graph, "bfloat16", transposed), wrt=wrt)
    wide = outcome(autodiff(graph, wrt=wrt), "bfloat16", backend="reference")
    found = outcome(stored, "bfloat16", tiling=tiling, threads=threads, check=True)
    for name, array in wide.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


def test_no_weight_is_ever_whole_in_more_bits() -> None:
    sizes = {"B": 1, "S": 1, "V": 3000, "D": 256, "F": 2048}
    graph = held(block(), "bfloat16", "U W")
    memory = gi.compile(graph, sizes, tiling=Tiling(bytes=1 << 16, casts=1 << 16, small=0, causal=(4, 8))).memory
    weights = 2 * (3000 * 256 + 2 * 256 * 2048)
    assert weights < memory.arguments < weights + 4096
    assert memory.bytes - memory.arguments < 1 << 18 < weights // 8


def test_what_only_rows_are_looked_up_of_is_never_cast_whole() -> None:
    graph = held(block(tied=False), "bfloat16", "")
    (lookup,) = (node for node in graph.nodes if "lookup" in node.operator.key)
    assert [each.dtype for each in lookup.outputs] == ["bfloat16"]
    assert [str(each.type) for each in graph.parameters][:2] == ["bfloat16[V, D]", "float32[D]"]


def test_what_is_no_product_of_rows_and_columns_stays_as_it_is() -> None:
    graph = block()
    assert as_stored(graph, {"gamma": ("bfloat16", False), "U": ("float64", False)}) is graph
    assert as_stored(graph, {"U": ("float32", False), "W": ("int8", True)}) is graph
    mirrored = as_stored(graph, {"U": ("float32", True)})
    assert str(mirrored["U.stored"].type) == "float32[F, D]"
    assert all("cast" not in node.operator.key for node in mirrored.nodes)
    # A transposed table would have its rows looked up as columns.
    assert as_stored(graph, {"E": ("bfloat16", True)}) is graph


def test_a_sharded_graph_is_refused() -> None:
    mesh = gi.Mesh(tp=2)
    graph = shard(block(), mesh, find_plan("tp:F"), SIZES)
    with pytest.raises(ConfigError, match="graph block is sharded already; as_stored comes first"):
        held(graph, "bfloat16", "")


def test_ranks_have_their_parts_of_what_is_stored() -> None:
    stored = held(block(), "bfloat16", "U W")
    sharded = shard(stored, gi.Mesh(tp=2), find_plan("tp:F"), SIZES)
    assert str(sharded["U.stored"].type) == "bfloat16[F|tp, D]"
    found, wide = outcome(sharded, "bfloat16", check=True), outcome(block(), "bfloat16", backend="reference")
    np.testing.assert_allclose(found["L"], wide["L"], rtol=1e-5)
