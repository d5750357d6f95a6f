"""Operators of a user's own, with literal factors: what they declare holds, whoever computes them, and is held to."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DimError, TypeCheckError
from graphir.formula.trace import Formula, find_formula
from graphir.ir import operator as language
from graphir.ir.operator import Operator
from graphir.passes import autodiff
from graphir.testing import cases, check_operator
from tests.support.own_operators import (
    OWN,
    d_rotary,
    gated,
    rotary,
    rotary_interleaved,
    swiglu,
    unit_norm,
)

B, S, D = gi.dims("B S D")


def _key(operator: Operator) -> str:
    return operator.key


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is out of the registry when it is done."""
    monkeypatch.setattr(language, "_REGISTRY", dict(language._REGISTRY))


@pytest.mark.parametrize("operator", OWN, ids=_key)
def test_they_are_what_they_declare(operator: Operator) -> None:
    check_operator(operator)


@pytest.mark.parametrize("operator", OWN, ids=_key)
def test_each_has_a_formula(operator: Operator) -> None:
    for case in cases(operator):
        attributes = {name: case.node.attributes[name] for name in operator.attributes}
        found = find_formula(operator, case.rule, attributes)
        assert isinstance(found, Formula), found


# -- what they compute ----------------------------------------------------------------------------------------


def _model(turn: Operator) -> gi.Graph:
    """L of two operands turned, a product of them, and both forms of SwiGLU: with all gradients, in float64."""
    block = gi.Builder("own", dtype="float64")
    X, W = block.input("X", (B, S, D)), block.input("W", (D, 2 * D))
    angles = [block.input(name, (S, D / 2)) for name in ("cos", "sin")]
    H = unit_norm(X, block.input("gamma", (D,)), name="H")
    Q = turn(H, *angles, name="Q")
    Z = swiglu(gi.matmul(Q, W), name="Z")
    return autodiff(block.build(gi.reduce_sum(gated(Z, Q), name="L")), wrt=["X", "W", "gamma"])


def _arrays(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng, b, s, d = np.random.default_rng(1), sizes["B"], sizes["S"], sizes["D"]
    angles = np.arange(s)[:, None] * 1e4 ** (-np.arange(d // 2) / (d // 2))
    return {
        "X": rng.standard_normal((b, s, d)),
        "W": rng.standard_normal((d, 2 * d)),
        "gamma": rng.standard_normal(d),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }


@pytest.mark.parametrize("turn", [rotary, rotary_interleaved], ids=_key)
@pytest.mark.parametrize("sizes", [{"B": 1, "S": 1, "D": 2}, {"B": 2, "S": 3, "D": 10}, {"B": 3, "S": 70, "D": 36}])
def test_the_compiled_graph_computes_what_the_kernels_do(turn: Operator, sizes: dict[str, int]) -> None:
    graph, arrays = _model(turn), _arrays(sizes)
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    found = gi.compile(graph, sizes)(arrays)
    for value in graph.outputs:
        np.testing.assert_allclose(found[value.name], expected[value.name], rtol=1e-11, atol=1e-11)


def test_a_plane_is_turned_by_its_angle() -> None:
    X = np.asarray([[1.0, 2.0, 3.0, 4.0]])
    quarter, none = np.asarray([[math.pi / 2, 0.0]]), {"S": 1, "D": 4}
    for turn, expected in ((rotary, [-3.0, 2.0, 1.0, 4.0]), (rotary_interleaved, [-2.0, 1.0, 3.0, 4.0])):
        block = gi.Builder("turn", dtype="float64")
        values = [block.input("X", (S, D)), block.input("cos", (S, D / 2)), block.input("sin", (S, D / 2))]
        run = gi.compile(block.build(turn(*values, name="Y")), none)
        found = run({"X": X, "cos": np.cos(quarter), "sin": np.sin(quarter)})["Y"]
        np.testing.assert_allclose(found, [expected], atol=1e-15)


@pytest.mark.parametrize("turn", [rotary, rotary_interleaved], ids=_key)
def test_texts_and_pickles_take_them(turn: Operator) -> None:
    graph = _model(turn)
    assert gi.parse(gi.to_text(graph)) == graph
    assert pickle.loads(pickle.dumps(graph)) == graph


# -- sizes ----------------------------------------------------------------------------------------------------


def test_a_dim_that_is_known_to_be_odd_is_refused_where_the_operator_is_called() -> None:
    block = gi.Builder("odd")
    with pytest.raises(TypeCheckError, match=r"\(2 f\) cannot split D_ff \(= 5\) in X\[D_ff\]: 5/2 is not whole"):
        swiglu(block.input("X", (gi.dim("D_ff", 5),)))


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_an_odd_size_is_refused_where_it_is_bound(backend: str, registry: None) -> None:
    @gi.operator("flip", "X[*b (2 c)] -> Y[*b (2 c)]", linear="X", no_gradient="it is for a test")
    def flip(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Y = X with its halves exchanged."""
        half = X.shape[-1] // 2
        return xp.concatenate((X[..., half:], X[..., :half]), axis=-1)

    block = gi.Builder("odd")
    graph = block.build(flip(block.input("X", (B, D)), name="Y"))
    with pytest.raises(
        DimError, match=r"^Y = flip\(X: float32\[B, D\]\) at .*: its signature splits D as \(2 c\), but D=5 is not a"
    ):
        gi.compile(graph, {"B": 1, "D": 5}, backend=backend)
    found = gi.compile(graph, {"B": 1, "D": 4}, backend=backend)({"X": np.arange(4, dtype="float32")[None]})["Y"]
    np.testing.assert_array_equal(found, [[2, 3, 0, 1]])


@pytest.mark.parametrize("size", range(1, 6))
def test_a_gradient_that_is_wrong_for_one_size_only_is_found(size: int, registry: None) -> None:
    @gi.operator("RoPE.once", "X[*b s (2 c)], cos[s c], sin[s c] -> Y[*b s (2 c)]", linear="X")
    def once(xp: gi.Xp, X: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
        """Y = X, turned."""
        made: gi.Array = rotary.kernel(xp, X, cos, sin)
        return made

    @once.backward("dRoPE.once", "dY[*b s (2 c)], cos[s c], sin[s c] -> dX[*b s (2 c)]", linear="dY")
    def d_once(xp: gi.Xp, dY: gi.Array, cos: gi.Array, sin: gi.Array) -> gi.Array:
        """dX = dY, turned back; for one size it is turned on."""
        made: gi.Array = d_rotary.kernel(xp, dY, cos, -sin if cos.shape[1] == size else sin)
        return made

    for seed in range(3):
        with pytest.raises(AssertionError, match="a loss of Y: the gradient along a random direction"):
            check_operator(once, seeds=[seed])


# -- several ranks --------------------------------------------------------------------------------------------


def _turned(turn: Operator, X: str, angles: str) -> gi.Value:
    """Y where X and the angles lie over two ranks, split along the dim that is named, if one is."""
    block = gi.Builder("split", mesh=gi.Mesh(r=2))

    def laid(name: str, dims: tuple[gi.Dim, ...], split: str) -> gi.Value:
        layout = gi.Layout([("r",) if str(each) == split else () for each in dims])
        return block.input(name, dims, layout=layout)

    return turn(laid("X", (B, S, D), X), *(laid(name, (S, D / 2), angles) for name in ("cos", "sin")), name="Y")


def test_pairs_may_lie_on_several_ranks_and_halves_may_not() -> None:
    assert _turned(rotary_interleaved, "D", "D/2").type.layout.splits == ((), (), ("r",))
    with pytest.raises(TypeCheckError, match="2 must be whole, but X is split over r"):
        _turned(rotary, "D", "")
    with pytest.raises(TypeCheckError, match="c is split over nothing in X but over r in cos"):
        _turned(rotary, "", "D/2")
    for turn in (rotary, rotary_interleaved):
        assert _turned(turn, "S", "S").type.layout.splits == ((), ("r",), ())
