"""Collectives written by hand in a user's graph (B 4.4.7): typed, executed and differentiated like any other node."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.errors import TypeCheckError
from graphir.passes import autodiff, dce, lower, optimize

B, S, D, F = gi.dims("B S D F")
SIZES = {"B": 4, "S": 6, "D": 8, "F": 12}
MESH = gi.Mesh(dp=2, tp=2)


def layout(text: str) -> gi.Layout:
    """`layout("dp - tp")`: one word a dim, its axes joined by |, - for none."""
    return gi.Layout([() if word == "-" else word.split("|") for word in text.split()])


def loss_of(block: gi.Builder, Y: gi.Value) -> gi.Graph:
    weight = block.input("R", Y.shape, "float64", Y.type.layout)
    total = gi.reduce_sum(gi.multiply(Y, weight))
    if total.type.layout.pending:
        total = gi.all_reduce(total, axes=total.type.layout.pending_axes, name="L")
    return block.build(gi.identity(total, name="loss"))


def single() -> gi.Graph:
    block = gi.Builder("mlp", "float64")
    X = block.input("X", (B, S, D))
    b = block.parameter("b", (D,))
    A = gi.activation(gi.matmul(X, block.parameter("W_up", (D, F))), kind="gelu_tanh")
    Z = gi.matmul(A, block.parameter("W_down", (F, D)))
    return loss_of(block, gi.add(Z, gi.broadcast(b, (B, S))))


def column_then_row() -> gi.Graph:
    """Megatron's MLP: one all-reduce forward; backward, autodiff settles dX, which is pending."""
    block = gi.Builder("mlp", "float64", mesh=MESH)
    X = block.input("X", (B, S, D), layout=layout("dp - -"))
    b = block.parameter("b", (D,))
    A = gi.activation(gi.matmul(X, block.parameter("W_up", (D, F), layout=layout("- tp"))), kind="gelu_tanh")
    Z = gi.all_reduce(gi.matmul(A, block.parameter("W_down", (F, D), layout=layout("tp -"))), axes=("tp",))
    return loss_of(block, gi.add(Z, gi.broadcast(b, (B, S), like=Z)))


def sequence_parallel() -> gi.Graph:
    """AG before, RS behind: outside, the sequence is split over tp."""
    block = gi.Builder("mlp", "float64", mesh=MESH)
    X = block.input("X", (B, S, D), layout=layout("dp tp -"))
    b = block.parameter("b", (D,))
    whole = gi.all_gather(X, dim=1, axis="tp")
    A = gi.activation(gi.matmul(whole, block.parameter("W_up", (D, F), layout=layout("- tp"))), kind="gelu_tanh")
    Z = gi.reduce_scatter(gi.matmul(A, block.parameter("W_down", (F, D), layout=layout("tp -"))), dim=1, axis="tp")
    return loss_of(block, gi.add(Z, gi.broadcast(b, (B, S), like=Z)))


def exchanged() -> gi.Graph:
    """A slice and an A2A on the way: the batch replicated, D split, then S instead."""
    block = gi.Builder("mlp", "float64", mesh=MESH)
    X = block.input("X", (B, S, D), layout=layout("- - dp"))
    b = block.parameter("b", (D,))
    rows = gi.all_to_all(X, source=2, target=1, axis="dp")
    W_up, W_down = block.parameter("W_up", (D, F)), block.parameter("W_down", (F, D))
    A = gi.activation(gi.matmul(gi.local_slice(rows, dim=0, axis="tp"), W_up), kind="gelu_tanh")
    Z = gi.matmul(A, W_down)
    return loss_of(block, gi.add(Z, gi.broadcast(b, (B, S), like=Z)))


HAND_MADE = [column_then_row, sequence_parallel, exchanged]


def arguments(graph: gi.Graph) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    values = sorted(graph.arguments, key=lambda value: value.name)
    return {value.name: draw.standard_normal([dim.size(SIZES) for dim in value.shape]) for value in values}


@pytest.mark.parametrize("make", HAND_MADE)
@pytest.mark.parametrize("algorithm", ["ring", "direct", "naive"])
def test_a_graph_sharded_by_hand_computes_what_one_rank_does(make, algorithm):
    reference, graph = autodiff(single(), wrt=["X", "W_up", "W_down", "b"]), make()
    joint = gi.verify(autodiff(graph, wrt=["X", "W_up", "W_down", "b"]))
    given = arguments(reference)
    expected = gi.compile(reference, SIZES)(given)
    found = gi.compile(joint, SIZES, algorithm=algorithm)(given)
    for name in ("loss", "dX", "dW_up", "dW_down", "db"):
        assert np.abs(found[name] - expected[name]).max() <= 1e-13 * np.abs(expected[name]).max(), name


@pytest.mark.parametrize("make", HAND_MADE)
def test_a_gradient_lies_as_its_value_does(make):
    names = ["X", "W_up", "W_down", "b"]
    joint = autodiff(make(), wrt=names)
    for name, gradient in zip(names, joint.outputs[1:], strict=True):
        assert gradient.type == joint[name].type, name


def test_backward_collectives_are_the_partners_of_the_forward_ones():
    def kinds(graph: gi.Graph, phase: str) -> list[str]:
        return [n.operator.key for n in graph.nodes if n.operator.relayout is not None and n.meta.phase == phase]

    joint = autodiff(sequence_parallel(), wrt=["X"])
    assert kinds(joint, "forward") == ["AG", "RS", "AR"]
    # dZ is split as Z is and gathered; dX of the column-parallel map is pending, and scattered as X lies.
    assert kinds(joint, "backward") == ["AG", "AR", "SLICE"]


def test_hand_made_graphs_go_through_the_other_passes():
    graph = optimize(autodiff(column_then_row()))
    for each in (graph, lower(graph), dce(graph)):
        gi.verify(each)
        assert gi.parse(gi.to_text(each)) == each


def test_a_forgotten_all_reduce_is_a_type_error():
    block = gi.Builder("mlp", "float64", mesh=MESH)
    A = block.input("A", (B, S, F), layout=layout("dp - tp"))
    Z = gi.matmul(A, block.parameter("W_down", (F, D), layout=layout("tp -")), name="Z")
    with pytest.raises(TypeCheckError, match=r"it is not linear in X, but X is a pending sum over tp"):
        gi.activation(Z)


def test_a_maximum_has_no_gradient():
    block = gi.Builder("top", "float64", mesh=gi.Mesh(tp=2))
    X = block.parameter("X", (B,), layout=gi.Layout([()], {"tp": "max"}))
    graph = block.build(gi.reduce_sum(gi.all_reduce(X, axes=("tp",), reduce="max"), name="L"))
    with pytest.raises(TypeCheckError, match="all-reduce of maxima has no gradient"):
        autodiff(graph)
