"""What is made to measure, a broadcast above all, is had as what it is made of lies, whoever reads it, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.ir.graph import FORWARD, Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import Plan, autodiff, shard

B, S, D, N_KV, G, E = gi.dims("B S D N_KV G E")
SIZES = {"B": 4, "S": 3, "D": 4, "N_KV": 2, "G": 3, "E": 2}

#: From K [B, N_KV, S, E] to what Q [B, N_KV, G, S, E] is multiplied by, [B, N_KV, G, E, S].
Widening = Callable[[Value], Value]
WIDENINGS: dict[str, Widening] = {
    "BC, T": lambda K: gi.transpose(gi.broadcast(K, (G,), axes=(2,))),
    "BC, T, T": lambda K: gi.transpose(gi.transpose(gi.broadcast(K, (G,), axes=(0,)), (1, 2, 0, 3, 4))),
    "BC, GL, T": lambda K: gi.transpose(gi.activation(gi.broadcast(K, (G,), axes=(2,)))),
    "BC, R, R, T": lambda K: gi.transpose(
        gi.reshape(
            gi.reshape(gi.broadcast(K, (G,), axes=(2,)), "b k g s e -> b (k g) s e"),
            "b (k g) s e -> b k g s e",
            g=G,
        )
    ),
    "T, BC": lambda K: gi.broadcast(gi.transpose(K), (G,), axes=(2,)),
}


def grouped_heads(widen: Widening) -> Graph:
    """The loss and gradients of attention in which G query heads share each of N_KV heads of keys and values."""
    block = gi.Builder("grouped", dtype="float64")
    X = block.input("X", (B, S, D))
    W_Q = block.parameter("W_Q", (D, N_KV * G * E))
    W_K, W_V = (block.parameter(name, (D, N_KV * E)) for name in ("W_K", "W_V"))
    Q = gi.reshape(gi.matmul(X, W_Q), "b s (k g e) -> b s k g e", k=N_KV, g=G)
    K, V = (gi.reshape(gi.matmul(X, W), "b s (k e) -> b s k e", k=N_KV) for W in (W_K, W_V))
    A = gi.matmul(gi.transpose(Q, (0, 2, 3, 1, 4)), widen(gi.transpose(K, (0, 2, 1, 3))), name="A")
    P = gi.softmax(gi.scale_mask(A, width=E, causal=True))
    wide = gi.transpose(widen(gi.transpose(V, (0, 2, 1, 3))))
    return autodiff(block.build(gi.reduce_sum(gi.activation(gi.matmul(P, wide)), name="L")), loss="L")


def moves(graph: Graph, phase: str = FORWARD) -> list[str]:
    """The collectives of a pass, but for the sums that results are in the end."""
    returned = {graph.origin(value) for value in graph.outputs}
    return [
        f"{node.operator.key}({node.inputs[0].name})"
        for node in graph.nodes
        if node.operator.relayout is not None
        and node.meta.phase == phase
        and graph.origin(node.inputs[0]) not in returned
    ]


def assert_same(graph: Graph, local: Graph, sizes: dict[str, int]) -> None:
    """Every result of the parallel run is the single run's, to rounding."""
    rng = np.random.default_rng(0)
    arrays = {value.name: rng.standard_normal([each.size(sizes) for each in value.shape]) for value in graph.arguments}
    alone, together = (gi.compile(each, sizes, backend="reference")(arrays) for each in (graph, local))
    for value in graph.outputs:
        np.testing.assert_allclose(together[value.name], alone[value.name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("widen", WIDENINGS.values(), ids=WIDENINGS)
def test_replicas_exchange_nothing_of_grouped_heads_but_gradients(widen: Widening) -> None:
    graph = grouped_heads(widen)
    local = gi.verify(shard(graph, Mesh(dp=2), "data"))
    assert moves(local) == moves(local, "backward") == []
    assert str(local["A"].type) == "float64[B|dp, N_KV, G, S, S]"
    assert_same(graph, local, SIZES)


@pytest.mark.parametrize("widen", WIDENINGS.values(), ids=WIDENINGS)
def test_ranks_that_share_the_heads_of_keys_exchange_nothing_of_them(widen: Widening) -> None:
    """Columns of W_Q, W_K and W_V split over tp are heads split over tp, to the loss and back."""
    graph = grouped_heads(widen)
    plan = Plan("heads", parameters={"W_*": "[_, _|tp]"})
    local = gi.verify(shard(graph, Mesh(tp=2), plan))
    assert moves(local) == moves(local, "backward") == []
    assert str(local["A"].type) == "float64[B, N_KV|tp, G, S, S]"
    assert_same(graph, local, SIZES)


def test_a_broadcast_that_is_returned_lies_as_what_it_is_made_of() -> None:
    block = gi.Builder("wide")
    X = block.input("X", (B, D))
    local = shard(block.build(gi.broadcast(X, (S,), axes=(1,), name="Y")), Mesh(dp=2), Plan(inputs={"X": "B|dp"}))
    assert moves(local) == []
    assert str(local.outputs[0].type) == "float32[B|dp, S, D]"


def test_a_pin_on_a_broadcast_is_obeyed_where_it_is_read() -> None:
    block = gi.Builder("wide")
    X = block.input("X", (B, D))
    Y = gi.broadcast(X, (S,), axes=(1,), name="Y")
    graph = block.build(gi.activation(gi.transpose(Y), name="Z"))
    plan = Plan(inputs={"X": "B|dp"}, activations={"Y": "S|tp"})
    assert str(shard(graph, Mesh(dp=2, tp=2), plan)["Z"].type) == "float32[B|dp, D, S|tp]"


# -- drawn chains ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """L = Σ of what a chain of broadcasts, views and functions of elements makes of X [B, S]; X is split over dp."""

    graph: Graph
    steps: tuple[str, ...]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """At least one broadcast; the batch is never merged below another dim, where no split could follow it."""
    block = gi.Builder("chain", dtype="float64")
    X = block.parameter("X", (B, S))
    value, steps = X, []
    fresh = iter(gi.dims("N1 N2 N3 N4 N5 N6"))
    for step in ["broadcast", *draw(st.lists(st.sampled_from(("broadcast", "T", "R", "GL")), max_size=5))]:
        rank = value.type.rank
        if step == "broadcast":
            value = gi.broadcast(value, (next(fresh),), axes=(draw(st.integers(0, rank)),))
        elif step == "T":
            value = gi.transpose(value, draw(st.permutations(range(rank))))
        elif step == "R" and rank > 1:
            first = draw(st.integers(0, rank - 2))
            if "B" in value.shape[first + 1].names:
                continue
            letters = [f"a{i}" for i in range(rank)]
            merged = [*letters[:first], f"({letters[first]} {letters[first + 1]})", *letters[first + 2 :]]
            value = gi.reshape(value, f"{' '.join(letters)} -> {' '.join(merged)}")
        elif step == "GL":
            value = gi.activation(value)
        steps.append(step)
    return Chain(autodiff(block.build(gi.reduce_sum(value, name="L")), loss="L"), tuple(steps))


@settings(deadline=None, max_examples=60)
@given(chain=chains())
def test_nothing_is_moved_for_what_is_broadcast(chain: Chain) -> None:
    graph = chain.graph
    local = gi.verify(shard(graph, Mesh(dp=2), Plan("batch", parameters={"X": "B|dp"})))
    assert moves(local) == moves(local, "backward") == [], chain.steps
    sizes = dict.fromkeys(sorted(frozenset().union(*(each.names for each in graph.dims))), 2)
    assert_same(graph, local, sizes)
