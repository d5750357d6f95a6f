"""What can be said of a graph without running it, on one small graph whose answers are read off by hand.

X ── Z_up ── A ──┬── Y ── L          n is X's number of elements: it depends on X's shape,
W ────┘          └── unused          not on what X holds
X ── n ──────────────── L
"""

from __future__ import annotations

import subprocess
import sys

import networkx
import numpy as np
import pytest

import graphir as gi
from graphir.ir.analysis import dependents, depth, last_uses, needed_nodes, to_networkx
from graphir.passes import autodiff

B, D, F = gi.dims("B D F")


@pytest.fixture(scope="module")
def graph() -> gi.Graph:
    block = gi.Builder("mean")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, F))
    A = gi.activation(gi.matmul(X, W, name="Z_up"), name="A")
    gi.exponential(A, name="unused")
    n = gi.count_elements(X, name="n")
    Y = gi.reduce_sum(gi.multiply(A, A, name="square"), name="Y")
    return block.build(gi.divide_by_count(Y, n, name="L"))


def names(values) -> list[str]:
    return [value.name for value in values]


def test_who_reads_whose_output(graph: gi.Graph) -> None:
    network = to_networkx(graph)
    assert names(network.nodes) == ["Z_up", "A", "unused", "n", "square", "Y", "L"]
    # A is read twice by one node, X and W are nobody's output.
    assert {(a.name, b.name, value) for a, b, value in network.edges(data="value")} == {
        ("Z_up", "A", "Z_up"),
        ("A", "unused", "A"),
        ("A", "square", "A"),
        ("square", "Y", "square"),
        ("Y", "L", "Y"),
        ("n", "L", "n"),
    }
    last = graph.producers[graph["L"]]
    assert {node.name for node in networkx.ancestors(network, last)} == {"Z_up", "A", "square", "Y", "n"}


def test_the_longest_path(graph: gi.Graph) -> None:
    # Z_up, A, square, Y, L.
    assert depth(graph) == 5


def test_the_depth_counts_nodes_not_values() -> None:
    block = gi.Builder("wide")
    X = block.input("X", (B,))
    assert depth(block.build(X)) == 0
    block = gi.Builder("wide")
    X = block.input("X", (B,))
    assert depth(block.build(gi.add(*(gi.scale(X, by=float(by)) for by in range(9))))) == 2


def test_the_longest_path_grows_by_as_much_with_each_layer() -> None:
    depths = [depth(gi.models.transformer(layers=layers)) for layers in (1, 2, 3)]
    assert depths[2] - depths[1] == depths[1] - depths[0] > 0


def test_what_values_are_computed_from(graph: gi.Graph) -> None:
    assert names(needed_nodes(graph, graph.outputs)) == ["Z_up", "A", "n", "square", "Y", "L"]
    assert names(needed_nodes(graph, [graph["n"], graph["unused"]])) == ["Z_up", "A", "unused", "n"]
    assert needed_nodes(graph, [graph["X"]]) == []


def test_what_depends_on_values_content(graph: gi.Graph) -> None:
    content = {"Z_up", "A", "unused", "square", "Y", "L"}
    assert set(names(dependents(graph, [graph["W"]]))) == {"W", *content}
    # Not n: it follows from the shape of X alone.
    assert set(names(dependents(graph, [graph["X"]]))) == {"X", *content}
    assert set(names(dependents(graph, [graph["n"]]))) == {"n", "L"}


def test_no_gradient_is_sought_through_a_shape() -> None:
    block = gi.Builder("mean")
    X = block.parameter("X", (B,))
    # ÷ has no gradient for the count; none is asked for, because the count does not change with X.
    joint = autodiff(block.build(gi.divide_by_count(gi.reduce_sum(X), gi.count_elements(X), name="L")))
    assert gi.compile(joint, {"B": 4})({"X": np.ones(4, "float32")})["dX"].tolist() == [0.25] * 4


def test_who_dies_where(graph: gi.Graph) -> None:
    dying = last_uses(graph.nodes, [*graph.outputs, *graph.arguments])
    found = {node.name: sorted(names(dead)) for node, dead in zip(graph.nodes, dying, strict=True)}
    assert found == {
        "Z_up": [],
        "A": ["Z_up"],
        "unused": ["unused"],
        "n": [],
        "square": ["A"],
        "Y": ["square"],
        "L": ["Y", "n"],
    }


def test_arguments_and_outputs_die_where_nobody_keeps_them(graph: gi.Graph) -> None:
    dying = last_uses(graph.nodes, [])
    found = {node.name: sorted(names(dead)) for node, dead in zip(graph.nodes, dying, strict=True)}
    assert (found["Z_up"], found["n"], found["L"]) == (["W"], ["X"], ["L", "Y", "n"])


def test_networkx_is_loaded_by_those_who_ask_for_it() -> None:
    program = "import graphir.ir.analysis, sys; print('networkx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
