"""LoRA: the graph computes what it did, and what is trained is the small products."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.errors import GraphError
from graphir.passes import adapters, autodiff, lora

SIZES = {"B": 3, "n": 4, "m": 5, "r": 2}


def block() -> gi.Graph:
    """L = Σ (X • W) • U ⊙ (X • W) • U, W read twice."""
    B, n, m = gi.dims("B n m")
    build = gi.Builder("block", dtype="float64")
    X = build.input("X", (B, n))
    W, U = build.parameter("W", (n, m)), build.parameter("U", (m, n))
    Z = gi.matmul(gi.matmul(X, W, name="H"), U, name="Z")
    return build.build(gi.reduce_sum(gi.multiply(Z, gi.matmul(gi.matmul(X, W), U)), name="L"))


def test_what_is_added_is_a_product_of_two_small_ones() -> None:
    graph = lora(block(), lambda W: W.name == "W")
    gi.verify(graph)
    assert adapters(graph) == {"W": ("W.A", "W.B")}
    assert [str(graph[name].type) for name in ("W.A", "W.B")] == ["float64[n, r]", "float64[r, m]"]
    draw = np.random.default_rng(0)
    X, W, A, B, U = (draw.standard_normal(shape) for shape in ((3, 4), (4, 5), (4, 2), (2, 5), (5, 4)))
    trained = autodiff(graph, wrt=["W.A", "W.B"])
    assert "dW" not in trained
    run = gi.compile(trained, SIZES)({"X": X, "W": W, "W.A": A, "W.B": B, "U": U})
    whole = gi.compile(autodiff(block()), {name: SIZES[name] for name in ("B", "n", "m")})
    added = whole({"X": X, "W": W + A @ B, "U": U})
    np.testing.assert_allclose(run["L"], added["L"], rtol=1e-12)
    np.testing.assert_allclose(run["dW.A"], added["dW"] @ B.T, rtol=1e-12)
    np.testing.assert_allclose(run["dW.B"], A.T @ added["dW"], rtol=1e-12)


def test_it_begins_with_what_the_graph_computed() -> None:
    graph = lora(block())
    arrays = gi.initialize(graph, SIZES)
    X = np.random.default_rng(0).standard_normal((3, 4))
    before = gi.compile(block(), {name: SIZES[name] for name in ("B", "n", "m")})
    found = gi.compile(graph, SIZES)(arrays, {"X": X})["L"]
    assert found == before({"W": arrays["W"], "U": arrays["U"], "X": X})["L"]
    assert np.abs(arrays["W.A"]).max() > 0


def test_a_graph_without_such_a_product_is_refused() -> None:
    with pytest.raises(GraphError, match="no product of graph block reads a matrix that is a parameter and chosen"):
        lora(block(), lambda W: False)
