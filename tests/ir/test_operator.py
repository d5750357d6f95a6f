"""Declarations of operators: what one gives, and the words in which a declaration with a hole is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

import graphir as gi
from graphir.errors import DimError, OperatorError, TypeCheckError, VerifyError
from graphir.ir import operator as language
from graphir.ir import traits
from graphir.ir.operator import Attributes, Operator, Place
from graphir.ir.signature import expand, parse_signature
from graphir.passes import autodiff

B, S, D = gi.dims("B S D")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test here declares is gone after it: the generic tests run over whole operators only."""
    monkeypatch.setattr(language, "_REGISTRY", dict(language._REGISTRY))


def declare_square():
    @gi.operator("square", "X[*b] -> Y[*b]", symbol="□²", elementwise=True, flops=1)
    def square(xp, X):
        """Y = X²."""
        return X * X

    @square.backward("dSquare", "X[*b], dY[*b] -> dX[*b]", elementwise=True, linear="dY", flops=2)
    def d_square(xp, X, dY):
        """dX = 2 X ⊙ dY."""
        return 2 * X * dY

    return square


def a_value(*shape, dtype="float32"):
    return gi.Builder().input("X", shape, dtype)


# -- what one declaration gives ---------------------------------------------------------------------------


def test_a_declared_operator_is_found_under_its_key():
    square = declare_square()
    assert gi.find_operator("square") is square
    assert square in gi.operators()
    assert (square.symbol, square.doc, square.flops) == ("□²", "Y = X².", 1)
    d_square = gi.find_operator("dSquare")
    assert square.d_operator is d_square
    assert d_square.d_operator_of is square
    assert d_square.symbol == "dSquare"


def test_a_declared_operator_is_typed_differentiated_and_run():
    square = declare_square()
    block = gi.Builder("squares")
    X = block.input("X", (B, S))
    graph = autodiff(block.build(gi.reduce_sum(square(X, name="Y"), name="L")), wrt=["X"])
    assert graph["Y"].type == X.type
    x = np.arange(6, dtype="float32").reshape(2, 3)
    run = gi.compile(graph, {"B": 2, "S": 3})({"X": x})
    assert run["L"] == 55
    np.testing.assert_array_equal(run["dX"], 2 * x)


def test_attributes_come_from_the_kernel():
    @gi.operator("power", "X[*b], W[*b] -> Y[*b]", no_gradient="none is asked for")
    def power(xp, X, W, *, by: float, times: int = 2, width: gi.Size = 1, shape: tuple[int, ...]):
        """Y = X."""
        return X

    assert power.operands == ("X", "W")
    assert power.keywords == {"shape"}
    assert [(a.name, a.annotation, a.required, a.is_size) for a in power.attributes.values()] == [
        ("by", float, True, False),
        ("times", int, False, False),
        ("width", gi.Size, False, True),
    ]
    assert power.normalize({"by": 3}) == {"by": 3.0, "times": 2, "width": 1}
    assert type(power.normalize({"by": 3})["by"]) is float


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "attribute by is missing"),
        ({"by": 1.0, "to": 2, "from": 3}, "unknown attribute from, to; it has by, times, axes, widths, deep, kind"),
        ({"by": "1"}, "attribute by must be float, not '1'"),
        ({"by": True}, "attribute by must be float, not True"),
        ({"by": 1, "times": 2.0}, "attribute times must be int, not 2.0"),
        ({"by": 1, "times": True}, "attribute times must be int, not True"),
        ({"by": 1, "axes": 3}, "attribute axes must be a tuple, not 3"),
        ({"by": 1, "axes": "01"}, "attribute axes must be a tuple, not '01'"),
        ({"by": 1, "axes": (0, "1")}, "attribute axes must be int, not '1'"),
        ({"by": 1, "widths": (B, 2.5)}, "attribute widths must be a dim, not 2.5"),
        ({"by": 1, "deep": 1}, "attribute deep must be bool, not 1"),
        ({"by": 1, "kind": None}, "attribute kind must be str, not None"),
    ],
)
def test_attributes_that_do_not_fit_are_named(attributes, message):
    @gi.operator("demanding", "X[*b] -> Y[*b]", no_gradient="none is asked for")
    def demanding(
        xp,
        X,
        *,
        by: float,
        times: int = 2,
        axes: tuple[int, ...] = (),
        widths: tuple[gi.Size, ...] = (),
        deep: bool = False,
        kind: str = "",
    ):
        """Y = X."""
        return X

    with pytest.raises(TypeCheckError) as caught:
        demanding.normalize(attributes)
    assert str(caught.value) == message


def test_attributes_cannot_be_changed():
    attributes = Attributes({"p": 0.5})
    with pytest.raises(TypeError, match="attributes are immutable"):
        attributes["p"] = 0.1
    with pytest.raises(TypeError, match="attributes are immutable"):
        del attributes["p"]
    assert hash(attributes) == hash(Attributes({"p": 0.5}))


def test_the_first_signature_whose_ranks_fit_is_used():
    matmul = gi.find_operator("matmul")
    shared, stacked, grouped = matmul.signatures(matmul.normalize({}))
    X = gi.Builder().input("X", (B, S, D))
    W2, W3 = X.owner.input("W2", (D, D)), X.owner.input("W3", (B, D, D))
    heads = X.owner.input("heads", (B, S, S, D))
    for left, W, signature in ((X, W2, shared), (X, W3, stacked), (heads, W3, grouped)):
        gi.matmul(left, W)
        assert X.owner.nodes[-1].inference.rule == expand(signature, (left.type.rank, W.type.rank))


def test_outputs_may_be_left_out_with_the_inputs_that_only_they_need():
    d_matmul = gi.find_operator("dMatmul")
    X = gi.Builder().input("X", (B, S))
    dY = X.owner.input("dY", (B, D))
    (dW,) = d_matmul.all(X, dY, shared=True, only=("dW",))
    assert str(dW.type) == "float32[S, D]"
    with pytest.raises(TypeCheckError, match=r"only=\('dZ',\) names no outputs of X\[\*b m k\]"):
        d_matmul.all(X, dY, shared=True, only=("dZ",))
    with pytest.raises(TypeCheckError, match=r"only=\(\) names no outputs"):
        d_matmul.all(X, dY, shared=True, only=())


def test_a_place_knows_the_region_of_a_block():
    place = Place(parse_signature("X[b k] -> Y[b]"), {"k": 4}, {"b": 2, "k": 8})
    assert place.region("X") == ((0, 4), (2, 8))
    assert place.region("Y") == ((0,), (2,))
    assert (place.start("k"), place.start("b")) == (4, 0)
    with pytest.raises(OperatorError, match=r"at.region\('Z'\): its signature .* has no such operand; it has X, Y"):
        place.region("Z")


def test_a_place_knows_the_factors_of_all_variants():
    rule = expand(parse_signature("X[*b k] -> Y[*b]"), (2,))
    place = Place(rule, {"k": 4}, {"b.0": 2, "k": 8}, frozenset({"b", "k", "width"}))
    assert (place.start("k"), place.start("b.0"), place.start("width")) == (4, 0, 0)
    with pytest.raises(OperatorError, match=r"at.start\('widht'\): .* no such factor; its operator has b, k, width"):
        place.start("widht")


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_a_misspelled_factor_is_told(backend):
    def shifted(xp, X, *, at: Place):
        """Y = X + the first column's number."""
        return X + at.start("colums")

    shift = Operator("shifted", "X[*b columns] -> Y[*b columns]", shifted, no_gradient="no test asks for it")
    block = gi.Builder("shifted")
    graph = block.build(shift(block.input("X", gi.dims("B D")), name="Y"))
    with pytest.raises(OperatorError, match=r"at.start\('colums'\): .*; its operator has b, columns"):
        gi.compile(graph, {"B": 2, "D": 3}, backend=backend)({"X": np.ones((2, 3), "float32")})


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_an_axis_of_two_halves_bound_to_an_odd_size_is_told_where_it_is_split(backend):
    def halves(xp, X):
        """Y = X₁ + X₂."""
        half = X.shape[-1] // 2
        return X[..., :half] + X[..., half:]

    halve = Operator("halves", "X[*b (2 c)] -> Y[*b c]", halves, no_gradient="no test asks for it")
    block = gi.Builder("halved")
    graph = block.build(halve(block.input("X", gi.dims("B D")), name="Y"))
    said = (
        r"^Y = halves\(X: float32\[B, D\]\) at tests/ir/test_operator.py:\d+: its signature splits D as \(2 c\), "
        r"but D=5 is not a multiple of 2; choose sizes that divide$"
    )
    with pytest.raises(DimError, match=said):
        gi.compile(graph, {"B": 2, "D": 5}, backend=backend)


def test_a_trait_is_declared_by_its_keyword_and_asked_for_by_its_class():
    square = declare_square()
    assert square.trait(traits.Elementwise) == traits.Elementwise()
    assert square.d_operator.trait(traits.Linear) == traits.Linear(frozenset({"dY"}))
    assert square.trait(traits.Linear) is None
    same = gi.operator("same", "X[*b] -> Y[*b]", linear=traits.Linear(frozenset({"X"})), elementwise=False)(kernel)
    assert same.linear == {"X"}
    assert not same.elementwise


def test_a_trait_of_ones_own_touches_no_operator(monkeypatch):
    monkeypatch.setattr(traits, "TRAITS", dict(traits.TRAITS))

    @dataclass(frozen=True)
    class Even(traits.Trait, keyword="even"):
        """f(−x) = f(x)."""

    square = gi.operator("even", "X[*b] -> Y[*b]", even=True)(kernel)
    assert square.trait(Even) == Even()


def test_a_declaration_is_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        declare_square().flops = 2


def test_a_variant_is_an_operator_that_is_named():
    activation = gi.find_operator("GL")
    assert activation.variant(traits.WithSlope) is gi.find_operator("GLs")
    assert activation.variant(traits.WithStatistics) is None


# -- what is refused --------------------------------------------------------------------------------------


def kernel(xp, X):
    """Y = X."""
    return X


def undocumented(xp, X):
    return X


def of_another_operand(xp, Z):
    """Y = Z."""
    return Z


def unannotated(xp, X, *, p):
    """Y = X."""
    return X


@pytest.mark.parametrize(
    ("declared", "signature", "said", "message"),
    [
        (undocumented, "X[*b] -> Y[*b]", {}, "operator new: its kernel has no docstring; state the formula there"),
        (of_another_operand, "X[*b] -> Y[*b]", {}, "operator new: its signature takes (X), its kernel (Z)"),
        (unannotated, "X[*b] -> Y[*b]", {}, "operator new: attribute p has no annotation"),
        (
            kernel,
            "X[*b] -> Y[*b]",
            {"random": True},
            "operator new is random: its kernel must take the attribute key: int",
        ),
        (
            kernel,
            "X[*b] -> Y[*b]",
            {"linaer": "X"},
            f"operator new: no trait is called linaer; the traits are {', '.join(traits.TRAITS)}",
        ),
        (kernel, "X[*b] -> X[*b]", {}, "signature 'X[*b] -> X[*b]' names X twice"),
    ],
)
def test_a_declaration_with_a_hole_is_refused(declared, signature, said, message):
    with pytest.raises(OperatorError) as caught:
        gi.operator("new", signature, **said)(declared)
    assert str(caught.value) == message
    with pytest.raises(OperatorError, match="no operator is called 'new'"):
        gi.find_operator("new")


@pytest.mark.parametrize(
    "traits",
    [
        {"linear": "Z"},
        {"auxiliary": "Z"},
        {"depends": {"Z": "X"}},
        {"depends": {"Y": "Z"}},
        {"updates": {"Y": "Z"}},
        {"updates": {"Z": "X"}},
    ],
)
def test_a_trait_must_name_what_is_there(traits):
    with pytest.raises(OperatorError) as caught:
        gi.operator("new", "X[*b] -> Y[*b]", **traits)(kernel)
    assert str(caught.value) == "operator new: a trait names Z, which its signature X[*b] -> Y[*b] lacks"


def test_a_key_is_taken_once():
    with pytest.raises(OperatorError) as caught:
        gi.operator("matmul", "X[*b] -> Y[*b]")(kernel)
    assert str(caught.value) == ("operator key 'matmul' is taken by graphir.operators.linear.matmul; choose another")
    assert gi.find_operator("matmul") is gi.matmul


def test_the_same_declaration_may_run_twice_as_in_a_notebook():
    first, second = declare_square(), declare_square()
    assert gi.find_operator("square") is second
    assert second is not first


def test_an_unknown_key_lists_the_known():
    with pytest.raises(
        OperatorError, match=r"^no operator is called 'nix'; the registry has .*ARG, Adam, .*, matmul, "
    ):
        gi.find_operator("nix")


def test_an_operator_without_a_gradient_must_say_why_before_its_first_use():
    silent = gi.operator("silent", "X[*b] -> Y[*b]")(kernel)
    X = a_value(B)
    with pytest.raises(OperatorError) as caught:
        silent(X)
    assert str(caught.value) == (
        "operator silent declares no gradient: give it a d-operator (@silent.backward), "
        "a rule (@silent.gradient), or say why it has none (no_gradient='…')"
    )
    assert X.owner.nodes == []


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (
            "mean[*b], dY[*b] -> dX[*b]",
            "d-operator of forward: its operand mean is no input, output or gradient of forward, which has X, Y, dY",
        ),
        ("X[*b], dY[*b] -> dZ[*b]", "d-operator of forward: its result dZ is no d of an input"),
    ],
)
def test_a_d_operator_speaks_of_its_operator_only(signature, message):
    forward = gi.operator("forward", "X[*b] -> Y[*b]")(kernel)

    def d_kernel(xp, X=None, mean=None, dY=None):
        """dX = dY."""
        return dY

    with pytest.raises(OperatorError) as caught:
        forward.backward("dForward", signature)(d_kernel)
    assert str(caught.value) == message


def test_an_operator_of_no_operands_needs_to_be_told_its_graph():
    with pytest.raises(TypeCheckError) as caught:
        gi.sinusoidal_positions(s=S, d=D)
    assert str(caught.value) == "positions needs graph values, or builder=…, to know which graph it joins"


def test_a_result_needs_a_dtype_from_somewhere():
    @gi.operator("nothing", "T[*b] int -> Y[*b]", no_gradient="none is asked for")
    def nothing(xp, T):
        """Y = T."""
        return T

    with pytest.raises(
        OperatorError, match=r"nothing\(X int64\[B\]\) at .*: operator nothing: nothing gives Y a dtype"
    ):
        nothing(a_value(B, dtype="int64"))


def test_what_was_inferred_for_a_node_holds_for_its_copy() -> None:
    block = gi.Builder("block")
    gi.activation(block.input("X", (B, S)), name="Y")
    graph = block.build()
    (copied,) = gi.Builder.extending(graph)[0].nodes
    assert copied.inference is graph.nodes[0].inference


def test_a_copy_on_operands_of_other_types_is_inferred_anew() -> None:
    block, other = gi.Builder("block"), gi.Builder("other")
    gi.activation(block.input("X", (B, S)), name="Y")
    graph = block.build()
    X = other.input("X", (S, B))
    copied = other.copy_node(graph.nodes[0], {graph["X"]: X})
    assert copied.inference.types == (X.type,)
    with pytest.raises(VerifyError, match=r"is declared float32\[B, S\], but its inputs make float32\[S, B\]"):
        gi.verify(other.build())
