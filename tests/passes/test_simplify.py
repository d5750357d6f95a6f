"""Nodes that return their operand are left out; what is a result, or more than a copy, stays."""

from __future__ import annotations

import numpy as np

import graphir as gi
from graphir.ir.graph import BACKWARD, Graph
from graphir.passes import autodiff, optimize, simplify

B, D = gi.dims("B D")
SIZES = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 12, "V": 11}


def keys(graph: Graph) -> list[str]:
    return [node.operator.key for node in graph.nodes]


def dropped(p: float) -> Graph:
    """L = Σ DO(X ⊙ X), differentiated."""
    block = gi.Builder("dropped")
    X, seed, step = block.input("X", (B, D)), block.input("seed", (), "int64"), block.input("step", (), "int64")
    Y = gi.dropout(gi.multiply(X, X, name="H"), seed, step, p=p, name="Y")
    return autodiff(block.build(gi.reduce_sum(Y, name="L")), wrt=["X"])


def test_dropout_at_rate_0_vanishes_with_its_backward_and_its_mask() -> None:
    graph = gi.verify(simplify(dropped(0.0)))
    assert keys(graph) == ["mul", "sum", "one", "BC", "dMul", "add"]
    assert [reader.name for reader, _ in graph.uses[graph["H"]]] == ["L"]
    assert not any(value.dtype == "bool" for value in graph.values.values())


def test_dropout_above_0_stays() -> None:
    joint = dropped(0.25)
    assert simplify(joint) == joint


def test_the_d_node_of_a_sum_vanishes() -> None:
    joint = autodiff(gi.models.transformer(layers=1))
    assert "dAddB" in keys(joint)
    graph = gi.verify(simplify(joint))
    assert "dAddB" not in keys(graph)
    assert keys(graph) == [key for key in keys(joint) if key != "dAddB"]


def test_results_keep_their_nodes_and_names() -> None:
    block = gi.Builder("results")
    X, seed, step = block.input("X", (B, D)), block.input("seed", (), "int64"), block.input("step", (), "int64")
    graph = block.build(gi.dropout(X, seed, step, p=0.0, name="Y"))
    assert simplify(graph) == graph
    joint = autodiff(gi.models.transformer(layers=1))
    assert [value.name for value in simplify(joint).outputs] == [value.name for value in joint.outputs]


def test_a_mask_that_something_else_reads_keeps_its_node() -> None:
    block = gi.Builder("mask")
    X, seed, step = block.input("X", (B, D)), block.input("seed", (), "int64"), block.input("step", (), "int64")
    Y, m = gi.dropout.all(X, seed, step, p=0.0, names=["Y", "m"])
    with block.context(phase=BACKWARD):
        dX = gi.find_operator("dDO")(m, Y, p=0.5, name="dX")
    graph = gi.verify(simplify(block.build(dX)))
    assert keys(graph) == ["DO", "dDO"]


def test_numbers_stay() -> None:
    step = optimize(autodiff(gi.models.transformer(layers=1, dropout=0.0, dtype="float64")))
    ids = np.arange(8).reshape(2, 4)
    arguments = gi.initialize(step, SIZES), {"T": ids, "Y": ids + 1, "seed": 1, "step": 1}
    plain, simple = (gi.compile(g, SIZES, backend="reference")(*arguments) for g in (step, simplify(step)))
    for name, array in plain.items():
        assert np.array_equal(simple[name], array), name
