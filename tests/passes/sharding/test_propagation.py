"""Placements: what a node does on a mesh follows from its situation alone, and few situations are distinct."""

from __future__ import annotations

import pytest

import graphir as gi
from graphir.ir.graph import Node
from graphir.ir.layout import Layout, Mesh
from graphir.passes import autodiff, optimize, shard
from graphir.passes.sharding.propagation import Claimed, Placement, Situation, place

B, S, D, F = gi.dims("B S D D_ff")


@pytest.fixture
def product() -> Node:
    """Y [B, S, D_ff] = X [B, S, D] • W [D, D_ff]: factors b.0 = B, m = S, k = D, n = D_ff."""
    block = gi.Builder("block")
    gi.matmul(block.input("X", (B, S, D)), block.parameter("W", (D, F)), name="Y")
    return block.nodes[0]


def placed(
    node: Node, X: Layout, W: Layout | None = None, Y: Layout | None = None, followed: Claimed = ()
) -> Placement:
    """Where X lies so, the parameter W is given so, and Y is wanted so."""
    given = (None, W or Layout.replicated(2))
    return place(Situation(node.operator, node.inference.rule, followed, given, (X, None), (None, None), (Y,)))


def test_the_parameter_comes_before_what_is_read(product: Node) -> None:
    """Both would have tp: W for its columns, X for the batch."""
    X, W = Layout([("tp",), (), ()]), Layout([(), ("tp",)])
    found = placed(product, X, W)
    assert dict(found.claimed) == {"n": ("tp",)}
    assert found.operands == (Layout.replicated(3), W)


def test_axes_that_do_not_meet_are_all_granted(product: Node) -> None:
    X, W = Layout([("dp",), (), ()]), Layout([("tp",), ()])
    found = placed(product, X, W)
    assert dict(found.claimed) == {"k": ("tp",), "b.0": ("dp",)}
    assert found.operands == (Layout([("dp",), (), ("tp",)]), W)


def test_a_d_node_does_as_the_node_did(product: Node) -> None:
    X = Layout([("tp",), (), ()])
    assert placed(product, X).claimed == (("b.0", ("tp",)),)
    assert placed(product, X, followed=(("m", ("tp",)),)).claimed == (("m", ("tp",)),)


def test_a_pending_axis_goes_where_the_result_is_wanted(product: Node) -> None:
    """X is a pending sum over tp; Y is wanted split along S: so X is to be scattered there, not reduced whole."""
    pending, scattered = Layout([(), (), ()], {"tp": "sum"}), Layout([(), ("tp",), ()])
    assert placed(product, pending, Y=scattered).operands[0] == scattered
    assert placed(product, pending).operands[0] == Layout.replicated(3)


def test_what_only_moves_passes_what_is_pending() -> None:
    block = gi.Builder("block")
    X = block.input("X", (B, D))
    gi.transpose(X, name="T")
    gi.activation(X, name="A")
    pending = Layout([("dp",), ()], {"tp": "sum"})
    moved, bent = (
        place(Situation(node.operator, node.inference.rule, (), (None,), (pending,), (None,), (None,)))
        for node in block.nodes
    )
    assert moved.operands == (pending,)
    assert bent.operands == (pending.settled(),)


def test_before_anything_lies_results_say_where_operands_are_wanted(product: Node) -> None:
    rule, Y = product.inference.rule, Layout([("dp",), ("cp",), ("tp",)])
    found = place(Situation(product.operator, rule, (), (None, Layout.replicated(2)), None, (None, None), (Y,)))
    assert found.operands == (Layout([("dp",), ("cp",), ()]), Layout([(), ("tp",)]))


def test_a_deeper_model_brings_no_new_situations() -> None:
    few, many = (optimize(autodiff(gi.models.transformer(layers))) for layers in (3, 6))
    shard(few, Mesh(dp=2, tp=2), "data+megatron")
    before = place.cache_info()
    shard(many, Mesh(dp=2, tp=2), "data+megatron")
    after = place.cache_info()
    assert after.misses == before.misses
    assert after.hits - before.hits > len(many.nodes)
