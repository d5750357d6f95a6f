"""Signatures: what parses, what is refused and in which words, how ranks make rules and shapes bind factors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import OperatorError, TypeCheckError
from graphir.ir.dims import shape_text
from graphir.ir.signature import Axis, Operand, bind_factors, check_dtypes, expand, output_shape, parse_signature
from graphir.ir.types import TensorType

B, S, D, F, N_H = gi.dims("B S D D_ff N_H")
D_h = gi.dim("D_h", D / N_H)


def floats(*shapes, dtype="float32"):
    return tuple(TensorType(dtype, shape) for shape in shapes)


def bind(text, *shapes, **given):
    """The outputs' shapes, as text, that the signature makes of these inputs' shapes."""
    rule = expand(parse_signature(text), tuple(map(len, shapes)))
    bound = bind_factors(rule, floats(*shapes), given)
    return [shape_text(output_shape(operand, bound)) for operand in rule.outputs]


# -- parsing ----------------------------------------------------------------------------------------------


def test_every_mark_is_read():
    signature = parse_signature("X[*b (h d) n!], T[*b] in v, keep[] bool, Z...[n] float -> Y[h d] to")
    X, T, keep, Z = signature.inputs
    assert X.axes == (Axis(("b",), star=True), Axis(("h", "d")), Axis(("n",), whole=True))
    assert (T.indexes, keep.indexes) == ("v", None)
    assert (keep.axes, keep.dtype) == ((), "bool")
    assert (Z.variadic, Z.dtype) == (True, "float")
    assert signature.outputs == (Operand("Y", (Axis(("h",)), Axis(("d",))), "to"),)
    assert signature.factors == ("b", "h", "d", "n")


def test_a_signature_without_operands_only_makes():
    assert parse_signature("-> P[s d] dtype").inputs == ()


def test_a_number_is_a_factor_that_is_whole():
    signature = parse_signature("X[*b (2 c)], W[12 c] -> Y[(c 2) 12]")
    X, W = signature.inputs
    assert X.axes == (Axis(("b",), star=True), Axis(("2", "c"), whole=True))
    assert W.axes == (Axis(("12",), whole=True), Axis(("c",)))
    assert signature.outputs[0].axes == (Axis(("c", "2")), Axis(("12",), whole=True))
    assert signature.literals == {"2": 2, "12": 12}
    assert signature.whole_factors == {"2", "12"}
    assert str(signature) == "X[*b (2 c)], W[12 c] -> Y[(c 2) 12]"


NAMES = st.sampled_from([chr(letter) for letter in range(ord("a"), ord("z") + 1)] + ["b1", "k_v"])
AXES = st.one_of(
    NAMES,
    NAMES.map(lambda name: f"{name}!"),
    NAMES.map(lambda name: f"({name} {len(name) + 1})"),
    st.lists(NAMES, min_size=2, max_size=3, unique=True).map(lambda names: f"({' '.join(names)})"),
)
DTYPES = st.sampled_from(["", " int", " float", " bool", " in v", " to"])


@st.composite
def signatures(draw):
    def operand(name):
        axes = draw(st.lists(AXES, max_size=4, unique_by=lambda axis: axis[-2:-1].isdigit() or axis))
        star = ["*z"] if draw(st.booleans()) else []
        return f"{name}[{' '.join(star + axes)}]{draw(DTYPES)}"

    inputs = [operand(f"X{i}") for i in range(draw(st.integers(0, 3)))]
    outputs = [operand(f"Y{i}") for i in range(draw(st.integers(1, 2)))]
    return f"{', '.join(inputs)} -> {', '.join(outputs)}".strip()


@settings(deadline=None)
@given(signatures())
def test_a_signature_prints_as_it_was_written(text):
    assert str(parse_signature(text)) == text


@settings(deadline=None)
@given(signatures(), st.integers(0, 4))
def test_blanks_mean_nothing(text, blanks):
    spaced = text.replace("[", f"[{' ' * blanks}").replace(",", f"{' ' * blanks},").replace("->", " ->  ")
    assert str(parse_signature(spaced)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X[a]", "signature 'X[a]' has no '->' between operands and results"),
        ("X[a] ->", "signature 'X[a] ->' has no result"),
        ("X[a] -> X[a]", "signature 'X[a] -> X[a]' names X twice"),
        ("X a -> Y[a]", "signature 'X a -> Y[a]': 'X a' is not of the form name[axes] dtype"),
        ("X[a], -> Y[a]", "signature 'X[a], -> Y[a]': '' is not of the form name[axes] dtype"),
        ("X[a] in v w -> Y[a]", "signature 'X[a] in v w -> Y[a]': 'X[a] in v w' is not of the form name[axes] dtype"),
        ("X[*b *c] -> Y[a]", "signature 'X[*b *c] -> Y[a]': 'X[*b *c]' has more than one '*'"),
        ("X[a B] -> Y[a]", "signature 'X[a B] -> Y[a]': cannot read the axis at 'B'"),
        ("X[(h d)!] -> Y[h]", "signature 'X[(h d)!] -> Y[h]': cannot read the axis at '!'"),
        ("X[()] -> Y[]", "signature 'X[()] -> Y[]': cannot read the axis at '()'"),
        ("X[(a D)] -> Y[a]", "signature 'X[(a D)] -> Y[a]': cannot read the axis at '(a D)'"),
        ("X[(1 c)] -> Y[c]", "signature 'X[(1 c)] -> Y[c]': cannot read the axis at '(1 c)'"),
        ("X[(2c)] -> Y[c]", "signature 'X[(2c)] -> Y[c]': cannot read the axis at '(2c)'"),
        ("X[02] -> Y[]", "signature 'X[02] -> Y[]': cannot read the axis at '02'"),
        ("X[3!] -> Y[]", "signature 'X[3!] -> Y[]': cannot read the axis at '!'"),
        (
            "X[(2 a) (2 b)] -> Y[a b]",
            "signature 'X[(2 a) (2 b)] -> Y[a b]': 2 stands 2 times in 'X[(2 a) (2 b)]', and would be one factor; "
            "give the others a name, and an attribute of that name",
        ),
    ],
)
def test_a_malformed_signature_is_refused(text, message):
    with pytest.raises(OperatorError) as caught:
        parse_signature(text)
    assert str(caught.value) == message


# -- ranks ------------------------------------------------------------------------------------------------

MATMUL = "X[*b m k], W[k n] -> Y[*b m n]"


@pytest.mark.parametrize(
    ("text", "ranks", "rule"),
    [
        (MATMUL, (2, 2), "X[m k], W[k n] -> Y[m n]"),
        (MATMUL, (4, 2), "X[b.0 b.1 m k], W[k n] -> Y[b.0 b.1 m n]"),
        ("X[*b k], W[*b n] -> Y[*b]", (2, 2), "X[b.0 k], W[b.0 n] -> Y[b.0]"),
        ("X...[*b] -> Y[*b]", (1, 1, 1), "X0[b.0], X1[b.0], X2[b.0] -> Y[b.0]"),
        ("X...[k] -> Y...[k]", (1, 1), "X0[k], X1[k] -> Y0[k], Y1[k]"),
    ],
)
def test_ranks_make_a_signature_a_rule(text, ranks, rule):
    assert str(expand(parse_signature(text), ranks)) == rule


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        (MATMUL, (1, 2)),  # less than the axes without a star
        (MATMUL, (3, 3)),  # W has no star to take what is too much
        (MATMUL, (3,)),  # an operand is missing
        ("X[*b k], W[*b n] -> Y[*b]", (3, 2)),  # *b would have two ranks
        ("X...[*b] -> Y[*b]", (1, 2)),
    ],
)
def test_ranks_that_do_not_fit_make_none(text, ranks):
    assert expand(parse_signature(text), ranks) is None


def test_restricting_keeps_the_declared_order():
    signature = parse_signature("X[a], W[a], dY[a] -> dX[a], dW[a]")
    assert str(signature.restrict({"dY", "X"}, {"dW"})) == "X[a], dY[a] -> dW[a]"


# -- shapes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shapes", "outputs"),
    [
        (MATMUL, [(B, S, D), (D, F)], ["[B, S, D_ff]"]),
        ("X[b s h d] -> Y[b s (h d)]", [(B, S, N_H, D_h)], ["[B, S, D]"]),
        ("X[*b k!] -> m[*b], Y[*b k!]", [(B, S, D)], ["[B, S]", "[B, S, D]"]),
        ("X[] -> Y[]", [()], ["[]"]),
    ],
)
def test_shapes_bind_factors(text, shapes, outputs):
    assert bind(text, *shapes) == outputs


def test_a_composite_dim_gives_its_free_factor():
    assert bind("X[b (h d)] -> Y[b h d]", (B, D), h=N_H) == ["[B, N_H, D/N_H]"]
    assert bind("X[b (h d)] -> Y[b h d]", (B, D), d=D_h) == ["[B, N_H, D_h]"]


def test_a_literal_factor_has_its_size():
    assert bind("X[b (2 c)] -> Y[b c]", (B, D)) == ["[B, D/2]"]
    assert bind("X[b (2 c)] -> Y[b (c 2)]", (B, D)) == ["[B, D]"]
    assert bind("X[b (2 c)], W[c] -> Y[2 c]", (B, 2 * D), (D,)) == ["[2, D]"]
    assert bind("X[b (2 c)] -> Y[b c]", (B, gi.dim("W", 6))) == ["[B, 3]"]
    assert bind("X[b 3] -> Y[3]", (B, gi.dim("W", 3))) == ["[3]"]


def test_equal_products_are_the_same_dim():
    assert bind("X[b k], W[k n] -> Y[b n]", (B, D), (N_H * D_h, F)) == ["[B, D_ff]"]


@pytest.mark.parametrize(
    ("text", "shapes", "given", "message"),
    [
        ("X[m k], W[k n] -> Y[m n]", [(B, D), (F, D)], {}, "k is D in X[B, D] but D_ff in W[D_ff, D]"),
        ("X[m k], W[k n] -> Y[m n]", [(B, D), (D_h, D)], {}, "k is D in X[B, D] but D_h (= D/N_H) in W[D_h, D]"),
        ("X[a a] -> Y[a]", [(B, S)], {}, "a is B in X[B, S] but S in X[B, S]"),
        ("X[a] -> Y[a]", [(B,)], {"a": S}, "a is S in the attribute but B in X[B]"),
        ("X[b] -> Y[b n]", [(B,)], {}, "nothing gives n a dim; pass n=…"),
        ("X[(h d)] -> Y[h d]", [(D,)], {}, "(h d) in X[D] leaves h and d free; pass all but one of them"),
        ("X[(2 c)] -> Y[c]", [(gi.dim("W", 5),)], {}, "(2 c) cannot split W (= 5) in X[W]: 5/2 is not whole"),
        ("X[(c 3)], W[c] -> Y[c]", [(D,), (F,)], {}, "(c 3) with c=D_ff, 3=3 makes 3*D_ff, not D as in X[D]"),
        ("X[b 3] -> Y[b]", [(B, D)], {}, "X[B, D] does not fit X[b 3]: D is not 3"),
        ("X[(h d)] -> Y[h d]", [(D,)], {"h": B, "d": S}, "(h d) with h=B, d=S makes B*S, not D as in X[D]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(text, shapes, given, message):
    with pytest.raises(TypeCheckError) as caught:
        bind(text, *shapes, **given)
    assert str(caught.value) == message


# -- dtypes -----------------------------------------------------------------------------------------------


def dtypes(text, *types):
    return check_dtypes(parse_signature(text), tuple(TensorType(each, (B,)) for each in types))


@pytest.mark.parametrize(
    ("text", "types", "shared"),
    [
        ("X[a], W[a] -> Y[a]", ("float64", "float64"), "float64"),
        ("X[a], lr[a] float -> Y[a]", ("float32", "float64"), "float32"),
        ("T[a] in v, E[a] -> Y[a]", ("int32", "float32"), "float32"),
        ("T[a] int -> Y[a]", ("int64",), ""),
        ("keep[a] bool, text[a] text -> Y[a]", ("bool", "text"), ""),
    ],
)
def test_operands_that_say_nothing_share_a_float(text, types, shared):
    assert dtypes(text, *types) == shared


@pytest.mark.parametrize(
    ("text", "types", "message"),
    [
        ("X[a] -> Y[a]", ("int64",), "X must be a float, not int64"),
        ("X[a] float -> Y[a]", ("bool",), "X must be a float, not bool"),
        ("X[a], W[a] -> Y[a]", ("float32", "float64"), "X is float32 but W is float64; cast one of them"),
        ("T[a] int -> Y[a]", ("float32",), "T must be an integer, not float32"),
        ("T[a] in v -> Y[a]", ("bool",), "T indexes v, so it must be an integer, not bool"),
        ("keep[a] bool -> Y[a]", ("int32",), "keep must be bool, not int32"),
    ],
)
def test_dtypes_that_do_not_fit_are_named(text, types, message):
    with pytest.raises(TypeCheckError) as caught:
        dtypes(text, *types)
    assert str(caught.value) == message
