"""Roles: how often a value from outside is read, and which loops are the same for whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import graphir as gi
from graphir.ir.graph import Graph
from graphir.ir.tiling import TileSpace, tile_space
from graphir.ir.value import Value

B, C, D, E = gi.dims("b c d e")


def build(make: Callable[[Value], Value | tuple[Value, ...]], shape: tuple[gi.Dim, ...]) -> Graph:
    block = gi.Builder("roles")
    made = make(block.input("X", shape))
    return block.build(*(made if isinstance(made, tuple) else (made,)))


def space_of(graph: Graph, rows: int, anchor: Value | None = None) -> TileSpace | None:
    return tile_space(graph.nodes, graph.outputs, graph.outputs[0] if anchor is None else anchor, rows)


def roles(graph: Graph, rows: int) -> list[tuple[tuple[int, ...], ...]]:
    """The dims of X in each of its roles."""
    space = space_of(graph, rows)
    assert space is not None
    return [space.dims[role] for role, value in space.outside.items() if value is graph["X"]]


SQUARES: dict[str, Callable[[Value], Value]] = {
    "X + Xᵀ": lambda X: gi.add(X, gi.transpose(X)),
    "X ⊙ Xᵀ": lambda X: gi.multiply(X, gi.transpose(X)),
    "X • X": lambda X: gi.matmul(X, X),
    "X • Xᵀ": lambda X: gi.matmul(X, gi.transpose(X)),
    "Xᵀ • X": lambda X: gi.matmul(gi.transpose(X), X),
    "Xᵀ • Xᵀ": lambda X: gi.matmul(gi.transpose(X), gi.transpose(X)),
}


@pytest.mark.parametrize("expression", SQUARES)
def test_what_is_read_along_both_dims_is_read_in_two_roles(expression: str) -> None:
    graph = build(SQUARES[expression], (B, B))
    space = space_of(graph, 2)
    assert space is not None
    assert len(set(space.loops)) == 2
    assert len(roles(graph, 2)) == 2
    # Each factor of a node is one of the tile space's.
    assert all(len(set(names.values())) == len(names) for names in space.factors.values())


def test_one_way_of_reading_is_one_role() -> None:
    assert len(roles(build(lambda X: gi.add(X, X), (B, C)), 2)) == 1
    assert len(roles(build(lambda X: gi.add(gi.scale(X, by=2.0), gi.activation(X)), (B, C)), 2)) == 1
    both = build(lambda X: gi.add(gi.scale(gi.transpose(X), by=2.0), gi.activation(gi.transpose(X))), (B, C))
    assert len(roles(both, 2)) == 1
    # The nodes are the graph's own where nothing has to be told apart.
    space = space_of(both, 2)
    assert space is not None
    assert all(space.origins[node].operator is node.operator for node in space.nodes)


def test_readers_of_one_value_share_loops_where_they_read_it_alike() -> None:
    graph = build(lambda X: (gi.softmax(X), gi.layer_norm(X, *_vectors(X))), (B, C, D))
    space = space_of(graph, 2)
    assert space is not None
    assert all(space.dims[value][:2] == ((space.loops[0],), (space.loops[1],)) for value in graph.outputs)


def _vectors(X: Value) -> tuple[Value, Value]:
    owner = X.owner
    assert isinstance(owner, gi.Builder)
    return owner.parameter("gamma", X.shape[-1:]), owner.parameter("beta", X.shape[-1:])


def test_what_is_made_here_and_read_along_both_dims_is_not_cut() -> None:
    graph = build(lambda X: SQUARES["X ⊙ Xᵀ"](gi.activation(X)), (B, B))
    assert space_of(graph, 1) is None
    assert space_of(graph, 0) is not None


def test_dims_that_are_merged_and_cut_otherwise_are_no_loops() -> None:
    def make(X: Value) -> Value:
        merged = gi.reshape(gi.scale(X, by=2.0), "e d -> (e d)")
        return gi.scale(gi.reshape(merged, "(d e) -> d e", d=D), by=3.0)

    graph = build(make, (E, D))
    assert space_of(graph, 2) is None
    assert space_of(graph, 1) is None


def test_a_minor_factor_of_a_view_of_a_sum_is_no_loop() -> None:
    graph = build(lambda X: gi.reshape(gi.reduce_sum(X, (2,)), "b c -> (b c)"), (B, C, D))
    anchor = graph["X"]
    assert space_of(graph, 2, anchor) is None
    assert space_of(graph, 1, anchor) is not None
    space = space_of(graph, 3, anchor)
    assert space is not None
    (b,), _, (d,) = space.dims[anchor]
    assert space.loops == (b, d)
