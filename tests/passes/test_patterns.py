"""What passes ask of nodes: traits, and how nodes lie in a graph."""

from __future__ import annotations

import graphir as gi
from graphir.passes import round_products, shard
from graphir.passes.patterns import (
    cast,
    collective,
    leading_to,
    narrowing,
    product,
    read_only_by,
    reduction,
    view,
    widening,
)

B, D, F = gi.dims("B D F")


def names(graph: gi.Graph, pattern) -> list[str]:
    return [node.name for node in graph.nodes if pattern(node)]


def graph() -> gi.Graph:
    """X • W in 16 bits, a view of it that is cast, one that is not, and one that nobody reads."""
    block = gi.Builder("products")
    X, W = block.input("X", (B, D)), block.parameter("W", (D, F))
    narrow = gi.cast(X, to="bfloat16", name="X.n"), gi.cast(W, to="bfloat16", name="W.n")
    Y = gi.matmul(*narrow, dtype="float32", name="Y")
    one, other = gi.transpose(Y, name="one"), gi.transpose(Y, name="other")
    gi.transpose(one, name="unread")
    Z = gi.cast(gi.transpose(gi.transpose(Y, name="outer"), name="inner"), to="float64", name="Z")
    return block.build(gi.exponential(other, name="E"), Z, gi.cast(one, to="bfloat16", name="one.n"))


def test_traits_and_what_is_made_of_them() -> None:
    made = graph()
    assert names(made, product) == ["Y"]
    assert names(made, narrowing) == ["X.n", "W.n", "one.n"]
    assert names(made, widening) == ["Z"]
    assert names(made, cast) == ["X.n", "W.n", "Z", "one.n"]
    assert names(made, cast & ~narrowing | product) == ["Y", "Z"]
    assert not any(pattern(None) for pattern in (view, ~view, view | ~view))  # nobody makes an argument


def test_reductions_are_the_collectives_that_settle() -> None:
    block = gi.Builder("linear")
    Y = gi.matmul(block.input("X", (B, D)), block.parameter("W", (D, F)), name="Y")
    local = shard(block.build(gi.reduce_sum(Y, name="L")), gi.Mesh(dp=2), "zero3", {"B": 2, "D": 2, "F": 2})
    assert names(local, collective) == ["W.AG", "L.AR"]
    assert names(local, reduction) == ["L.AR"]


def test_who_reads_a_result_alone() -> None:
    made = graph()
    assert names(made, read_only_by(made, view)) == ["Y", "outer"]
    assert names(made, read_only_by(made, cast)) == ["inner"]
    assert names(made, read_only_by(made, product)) == ["X.n", "W.n"]
    assert "Z" not in names(made, read_only_by(made, ~view))  # an output


def test_what_leads_somewhere_leads_nowhere_else() -> None:
    made = graph()
    assert names(made, leading_to(made, widening)) == ["outer", "inner", "Z"]
    # `one` is read by a cast, and by a view that nobody reads.
    assert "one" not in names(made, leading_to(made, cast))


def test_very_many_views_in_a_row_are_no_obstacle() -> None:
    block = gi.Builder("views")
    X, W = block.input("X", (B, D), "bfloat16"), block.input("W", (D, F), "bfloat16")
    value = gi.matmul(X, W, dtype="float32", name="Y")
    for _ in range(3000):
        value = gi.transpose(value)
    made = round_products(block.build(gi.exponential(gi.cast(value, to="bfloat16"))))
    assert {value.dtype for value in made.values.values()} == {"bfloat16"}
