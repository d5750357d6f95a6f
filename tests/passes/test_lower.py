"""Composite nodes taken apart: what is made, what it is called, and what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.passes import autodiff, lower

B, S, D, F = gi.dims("B S D F")


def linear(shape: tuple[gi.Dim, ...] = (B, S, D), wrt: list[str] | None = None) -> gi.Graph:
    """L = Σ X • W in the scope `mlp`, differentiated."""
    block = gi.Builder("linear", dtype="float64")
    with block.scope("mlp"):
        X, W = block.input("X", shape), block.parameter("W", (D, F))
        Z = gi.matmul(block.alias("H", X), W, name="Z")
    return autodiff(block.build(gi.reduce_sum(Z, name="L")), wrt=wrt)


def made_of(before: gi.Graph, after: gi.Graph) -> list[gi.Node]:
    """The nodes of `after` that `before` does not have."""
    kept = {node.name for node in before.nodes if node.operator.lower is None}
    return [node for node in after.nodes if node.name not in kept]


def test_d_matmul_becomes_transposes_and_products() -> None:
    joint = linear(wrt=["mlp/W", "mlp/X"])
    lowered = gi.verify(lower(joint))
    assert [node.operator.key for node in made_of(joint, lowered)] == ["T", "matmul", "R", "R", "T", "matmul"]
    assert not any(node.operator.lower for node in lowered.nodes)
    assert [value.type for value in lowered.outputs] == [value.type for value in joint.outputs]


def test_a_matrix_is_not_flattened() -> None:
    joint = linear((B, D))
    assert [node.operator.key for node in made_of(joint, lower(joint))] == ["T", "matmul"]


def test_results_keep_their_names_and_aliases() -> None:
    joint = linear(wrt=["mlp/W", "mlp/X"])
    lowered = lower(joint)
    assert [value.name for value in lowered.outputs] == [value.name for value in joint.outputs]
    aliases = {name: value.name for name, value in lowered.aliases.items()}
    assert aliases == {"mlp/H": "mlp/X", "mlp/dH": "mlp/dX"}
    producer = lowered.producers[lowered["mlp/dW"]]
    assert producer.operator.key == "matmul"


def test_what_is_made_says_where_it_comes_from() -> None:
    joint = linear(wrt=["mlp/W", "mlp/X"])
    (composite,) = (node for node in joint.nodes if node.operator.lower)
    line = composite.meta.at
    assert line is not None
    assert line.startswith("tests/passes/test_lower.py:")
    made = made_of(joint, lower(joint))
    assert made
    for node in made:
        assert node.meta.scope == "mlp"
        assert node.meta.phase == "backward"
        assert node.meta.of == "mlp/Z"
        assert node.meta.at == line
        assert node.meta.why == "dMatmul taken apart"


def test_what_is_not_taken_apart_stays_as_it_was() -> None:
    joint = linear()
    lowered = {node.name: node for node in lower(joint).nodes}
    for node in joint.nodes:
        if node.operator.lower is None:
            copy = lowered[node.name]
            assert (copy.operator, copy.attributes, copy.meta) == (node.operator, node.attributes, node.meta)
            assert [value.name for value in copy.inputs] == [value.name for value in node.inputs]


def test_a_graph_of_simple_nodes_is_lowered_to_itself() -> None:
    block = gi.Builder("scaled", mesh=gi.Mesh(dp=2))
    X = block.input("X", (B,), layout=gi.Layout([("dp",)]))
    graph = block.build(gi.scale(X, by=2.0, name="Y"))
    lowered = lower(graph)
    assert lowered == graph
    assert lowered is not graph
    assert lowered.mesh == gi.Mesh(dp=2)


@pytest.mark.parametrize("shape", [(B, D), (B, S, D)])
@pytest.mark.parametrize("wrt", [["mlp/W"], ["mlp/X"], ["mlp/W", "mlp/X"]])
def test_it_computes_the_same(shape: tuple[gi.Dim, ...], wrt: list[str]) -> None:
    joint = linear(shape, wrt)
    sizes = {"B": 2, "S": 3, "D": 4, "F": 5}
    sizes = {name: size for name, size in sizes.items() if name != "S" or S in shape}
    rng = np.random.default_rng(0)
    arrays = {value.name: rng.standard_normal([each.size(sizes) for each in value.shape]) for value in joint.arguments}
    whole, apart = (gi.compile(graph, sizes)(arrays) for graph in (joint, lower(joint)))
    for value in joint.outputs:
        np.testing.assert_allclose(apart[value.name], whole[value.name], rtol=1e-14, strict=True)
