"""Slips that beginners make at a builder: each is refused at once, in the user's terms, and can be tried again."""

from __future__ import annotations

import re

import numpy as np
import pytest

import graphir as gi
from graphir.drawing import View, draw
from graphir.drawing.render import render
from graphir.errors import ConfigError, DimError, GraphError, LayoutError, TypeCheckError
from graphir.ir import value
from graphir.operators.collectives import local_slice
from tests.support.lines import this_line

B, S, D = gi.dims("B S D")


@pytest.fixture
def block():
    return gi.Builder("block")


@pytest.fixture
def X(block):
    return block.input("X", (B, S, D))


@pytest.mark.parametrize("init", ["normal(1)", "normal(.5)", "normal(1e-2)", "normal(1E-2)", "zeros", "ones"])
def test_inits_that_are_taken_start_a_tensor(init):
    block = gi.Builder()
    block.parameter("W", (B,), init=init)
    assert np.isfinite(gi.initialize(block.build(), {"B": 3})["W"]).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda b: b.input("Z", D),
            TypeCheckError,
            "input Z: a shape is a tuple of dims, not D; with one dim it is (D,)",
        ),
        (
            lambda b: b.input("Z", ("B",)),
            DimError,
            "input Z: a dim is a Dim or a positive int, not 'B'; a name becomes one by gi.dim('B')",
        ),
        (
            lambda b: b.parameter("Z", (B,), "int64"),
            TypeCheckError,
            "parameter Z is int64[B], but only floats are trained; make it an input",
        ),
        (
            lambda b: b.parameter("Z", (B,), "text"),
            TypeCheckError,
            "parameter Z is text[B], but only floats are trained; make it an input",
        ),
        *(
            (
                lambda b, kind=kind: getattr(b, kind)("Z", (B,), layout=gi.Layout([("dp",)])),
                LayoutError,
                f"{kind} Z: its layout is over dp, but the graph's mesh is tp=2; give the graph a mesh with dp=…, "
                "or lay the value out otherwise",
            )
            for kind in ("input", "parameter", "state")
        ),
    ],
)
def test_what_no_argument_can_be(make, error, message):
    block = gi.Builder("block", mesh=gi.Mesh(tp=2))
    with pytest.raises(error) as caught:
        make(block)
    assert str(caught.value) == message
    block.input("Z", (B,))  # the name is still free
    gi.verify(block.build())


def test_a_node_may_not_lie_on_an_axis_that_the_mesh_lacks(block, X):
    with pytest.raises(LayoutError) as caught:
        local_slice(X, dim=0, axis="tp", name="part")
    assert str(caught.value) == (
        f"SLICE(X float32[B, S, D]) at {this_line(-2)}: its layout is over tp, but the graph's mesh is one rank; "
        "give the graph a mesh with tp=…, or lay the value out otherwise"
    )


def test_what_was_refused_can_be_tried_again(block, X):
    gamma, beta = block.parameter("gamma", (D,)), block.parameter("beta", (D,))
    with pytest.raises(GraphError, match="graph block has a value called X already"):
        gi.layer_norm.all(X, gamma, beta, names=["H", "X"])
    with pytest.raises(GraphError, match="graph block has a value called H already"):
        gi.layer_norm.all(X, gamma, beta, names=["H", "H"])
    with pytest.raises(GraphError, match="graph block has a value called X already"):
        gi.layer_norm.all(X, gamma, beta, names=[None, "X"])
    with pytest.raises(TypeCheckError, match="k is D in X"):
        gi.matmul(X, X, name="H")
    assert block.nodes == []
    names = [value.name for value in gi.layer_norm.all(X, gamma, beta)]
    assert names == ["LN0", "LN0.mean", "LN0.rstd"]
    assert gi.layer_norm(X, gamma, beta, name="H").name == "H"
    with pytest.raises(GraphError):
        block.alias("Z", 3)
    block.alias("Z", X)


@pytest.mark.parametrize(
    ("apply", "spelled", "use"),
    [
        (lambda X: X + X, "X + X", "gi.add"),
        (lambda X: 1 + X, "1 + X", "gi.add"),
        (lambda X: X - X, "X - X", "gi.add with gi.scale(…, by=-1.0)"),
        (lambda X: 1 - X, "1 - X", "gi.add with gi.scale(…, by=-1.0)"),
        (lambda X: X * X, "X * X", "gi.multiply, or gi.scale for a number"),
        (lambda X: 2.0 * X, "2.0 * X", "gi.multiply, or gi.scale for a number"),
        (lambda X: X / 2, "X / 2", "gi.scale for a number, or gi.divide_by_count"),
        (lambda X: X @ X, "X @ X", "gi.matmul"),
    ],
)
def test_values_take_no_signs(block, X, apply, spelled, use):
    with pytest.raises(TypeCheckError) as caught:
        apply(X)
    file, line = this_line().rpartition(":")[0], apply.__code__.co_firstlineno
    assert str(caught.value) == f"{spelled} at {file}:{line}: values take no Python signs; use {use}"
    for name in re.findall(r"gi\.(\w+)", use):
        assert hasattr(gi, name)


@pytest.mark.parametrize(
    ("apply", "spelled", "use"),
    [
        (lambda X: np.exp(X), "numpy.exp(X)", "gi.exponential"),
        (lambda X: np.ones(3) + X, "numpy.add(ndarray, X)", "gi.add"),
        (lambda X: np.float32(2) * X, "numpy.multiply(float32, X)", "gi.multiply"),
        (lambda X: np.ones((2, 2)) @ X, "numpy.matmul(ndarray, X)", "gi.matmul"),
        (lambda X: np.add.reduce(X), "numpy.add.reduce(X)", "gi.reduce_sum"),
        (lambda X: np.concatenate([X, X]), "numpy.concatenate(list)", "gi.concatenate"),
        (lambda X: np.mean(X), "numpy.mean(X)", "gi.reduce_sum and gi.scale"),
        (lambda X: np.fft.fft(X), "numpy.fft(X)", "an operator of your own, @gi.operator"),
        (lambda X: np.asarray(X), "numpy.asarray(X)", "gi.compile"),
        (lambda X: [0.0] @ X, "[0.0] @ X", "gi.matmul"),
        (lambda X: X**2, "X ** 2", "gi.multiply for a square"),
        (lambda X: 1 / X, "1 / X", "an operator of your own, @gi.operator"),
        (lambda X: -X, "-X", "gi.scale(…, by=-1.0)"),
        (lambda X: X > 0, "X > 0", "gi.scale_mask, or an operator of your own"),
        (lambda X: max(X, X), "X > X", "an operator of your own"),
        (lambda X: float(X), "float(X)", "gi.compile(graph, sizes)(arrays)"),
        (lambda X: "yes" if X else "no", "bool(X)", "gi.compile(graph, sizes)(arrays)"),
        (lambda X: len(X), "len(X)", ".shape"),
        (lambda X: [*X], "iter(X)", "gi.reshape"),
        (lambda X: X[0], "X[…]", "gi.lookup"),
    ],
)
def test_what_is_for_arrays_names_the_operator_to_use(block, X, apply, spelled, use):
    with pytest.raises(TypeCheckError) as caught:
        apply(X)
    line = apply.__code__.co_firstlineno
    assert str(caught.value).startswith(f"{spelled} at {this_line().rpartition(':')[0]}:{line}: ")
    assert use in str(caught.value)


def test_every_function_that_an_error_names_exists():
    for text in value._FUNCTIONS.values():
        for name in re.findall(r"gi\.(\w+)", text):
            assert hasattr(gi, name), text


def test_a_value_is_found_by_what_it_is(block, X):
    """Its refusal to be compared leaves identity alone, which sets and mappings live by."""
    Y = block.input("Y", (B,))
    assert X == X
    assert X != Y
    assert [X, Y].index(Y) == 1
    assert {X: 1}[X] == 1


def test_drawing_a_graph_says_what_to_call(block, X, tmp_path):
    graph = block.build(gi.scale(X, by=2.0))
    with pytest.raises(ConfigError, match=r"the suffix of 'x\.gif' names no format"):
        gi.draw(graph, "x.gif")
    with pytest.raises(AttributeError, match="has no attribute 'drawn'"):
        gi.drawn(graph)
    with pytest.raises(ConfigError, match=r"draw\(block, 'x\.svg'\): a picture is drawn under a View, and is no file"):
        draw(graph, "x.svg")
    assert b"<svg" in render(draw(graph, View()), "svg")


def test_dims_that_contradict_each_other_in_a_product_are_told_with_the_operands():
    """D_h means D/N_H in one operand and D/4 in the other; a composite dim would multiply them."""
    D, N_H, S = gi.dims("D N_H S")
    block = gi.Builder("heads")
    X = block.input("X", (S, gi.dim("D_h", D / N_H), gi.dim("D_h", D / 4)))
    with pytest.raises(DimError, match=r"R\(X float32\[S, D_h, D_h\]\) at .*:\d+: dim D_h is both"):
        gi.reshape(X, "s a b -> s (a b)")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("T", "gi.transpose"), ("sum", "gi.reduce_sum"), ("backward", "autodiff"), ("softmax", "gi.softmax")],
)
def test_what_tensors_of_others_have_is_answered_with_what_to_use(X, name, meant):
    with pytest.raises(AttributeError, match=rf"value X has no \.{name}; use .*{meant}"):
        getattr(X, name)
    assert not hasattr(X, "_repr_html_")
