"""What an operator costs that does not say: counted in its formula, by hand here."""

from __future__ import annotations

import pytest

import graphir as gi
from graphir.cost import count_flops, mesh_sizes, node_flops
from graphir.formula.flops import find_operations
from graphir.ir.operator import Kernel, Operator, Size
from graphir.passes import shard

B, D = gi.dims("B D")
SIZES = {"B": 4, "D": 10}


def _node(kernel: Kernel, signature: str = "X[*b] -> Y[*b]", flops: int | None = None, **attributes: object) -> gi.Node:
    """A node of an operator of that kernel, over [B, D]."""
    operator = Operator("tried", signature, kernel, flops=flops, no_gradient="no test asks for it")
    block = gi.Builder("one")
    graph = block.build(operator(block.input("X", (B, D)), name="Y", **attributes))
    return graph.nodes[0]


def _softplus(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = ln(1 + e^X), of which the addition needs a number."""
    return xp.log(1 + xp.exp(X))


def _centred(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = X − max X along each row."""
    return X - X.max(axis=-1, keepdims=True)


def _positive(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = max(X, 0) chosen, not computed."""
    return xp.where(X > 0, X, X.dtype.type(0))


def _scaled(xp: gi.Xp, X: gi.Array, *, by: Size) -> gi.Array:
    """Y = X / √by."""
    return X / X.dtype.type(float(by) ** 0.5)


def _by_halves(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Y = X, for which it looks at an element."""
    return X if float(X[0, 0]) > 0 else -X


@pytest.mark.parametrize(
    ("signature", "kernel", "expected"),
    [
        ("X[*b] -> Y[*b]", _softplus, 3 * 40),
        ("X[*b d!] -> Y[*b d!]", _centred, 2 * 40),
        ("X[*b] -> Y[*b]", _positive, 0),
        ("X[*b] -> Y[*b]", _by_halves, 0),
    ],
)
def test_operations_are_counted_in_the_formula(signature: str, kernel: Kernel, expected: int) -> None:
    assert node_flops(_node(kernel, signature)).number(SIZES) == expected


def test_a_dim_among_the_attributes_is_a_number_like_any_other() -> None:
    assert node_flops(_node(_scaled, by=D)).number(SIZES) == 40


def test_what_an_operator_says_is_what_counts() -> None:
    assert node_flops(_node(_softplus, flops=7)).number(SIZES) == 7 * 40
    assert not find_operations(_node(_softplus, flops=0))


def test_ranks_share_what_is_counted() -> None:
    operator = Operator("tried", "X[*b] -> Y[*b]", _softplus, no_gradient="no test asks for it")
    block = gi.Builder("shared")
    graph = block.build(operator(block.input("X", (B, D)), name="Y"))
    local = shard(graph, gi.Mesh(dp=2), "data")
    assert count_flops(local).number(mesh_sizes(local, SIZES)) == 3 * 40 / 2
