"""Dims: products and quotients, equality by product, sizes, and the words of each refusal."""

from __future__ import annotations

import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.errors import DimError
from graphir.ir.dims import DEEPEST, RESERVED, as_dim, product, resolve_sizes, shape_text

B, S, D, N_H = gi.dims("B S D N_H")
D_h = gi.dim("D_h", D / N_H)
NAMES = {"B": B, "S": S, "D": D, "N_H": N_H, "D_h": D_h}

#: Powers of the five names and a rational number: every dim there is over them.
POWERS = st.fixed_dictionaries({name: st.integers(-3, 3) for name in NAMES})
COEFFICIENTS = st.fractions(min_value=Fraction(1, 12), max_value=12, max_denominator=12)
#: Sizes for which D_h = D/N_H is whole.
SIZES = st.builds(
    lambda b, s, n, h: {"B": b, "S": s, "D": n * h, "N_H": n, "D_h": h},
    *[st.integers(1, 6) for _ in range(4)],
)


def power(base, exponent):
    return product([base] * exponent) if exponent >= 0 else 1 / product([base] * -exponent)


def build(powers, coefficient=Fraction(1)):
    """The dim of these powers, by the operators that users have."""
    whole = product(power(NAMES[name], exponent) for name, exponent in powers.items())
    return whole * coefficient.numerator / coefficient.denominator


DIMS = st.builds(build, POWERS, COEFFICIENTS)


def read(text, words, one):
    """What `text` spells, from left to right: an independent reading of products and quotients."""
    result = one
    for sign, word in re.findall(r"([*/]?)(\w+)", text):
        factor = words[word] if word in words else one * int(word)
        result = result / factor if sign == "/" else result * factor
    return result


def value(dim, sizes):
    """The dim's exact number, from its spelling."""
    return read(str(dim), sizes, Fraction(1))


# -- arithmetic -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(DIMS, DIMS, DIMS)
def test_products_form_a_group(a, b, c):
    assert a * b == b * a
    assert (a * b) * c == a * (b * c)
    assert a / b * b == a
    assert a / a == 1
    assert 1 / (1 / a) == a
    assert a / (b / c) == a * c / b


@settings(deadline=None)
@given(DIMS, DIMS, SIZES)
def test_numbers_follow_the_formula(a, b, sizes):
    assert value(a * b, sizes) == value(a, sizes) * value(b, sizes)
    assert value(a / b, sizes) == value(a, sizes) / value(b, sizes)


@settings(deadline=None)
@given(POWERS, COEFFICIENTS, SIZES)
def test_a_size_is_the_product_of_sizes(powers, coefficient, sizes):
    exact = coefficient * math.prod(Fraction(sizes[name]) ** exponent for name, exponent in powers.items())
    dim = build(powers, coefficient)
    bound = {name: size for name, size in sizes.items() if name != "D_h"}
    if exact.denominator == 1:
        assert dim.size(bound) == exact
    else:
        with pytest.raises(DimError, match="is not whole"):
            dim.size(bound)


@settings(deadline=None)
@given(DIMS, DIMS)
def test_equal_dims_have_equal_hashes_and_equal_products(a, b):
    respelled = a * b / b
    assert respelled == a
    assert hash(respelled) == hash(a)
    assert (a == b) == (a / b == 1)


@settings(deadline=None)
@given(DIMS)
def test_a_dim_reads_as_it_is_written(dim):
    assert read(str(dim), NAMES, as_dim(1)) == dim


@settings(deadline=None)
@given(DIMS)
def test_a_dim_survives_pickling_with_its_spelling(dim):
    copy = pickle.loads(pickle.dumps(dim))
    assert copy == dim
    assert str(copy) == str(dim)
    assert copy.definitions == dim.definitions


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (D / N_H, "D/N_H"),
        (N_H * D_h, "D"),
        (B * N_H * D_h, "B*D"),
        (4 * D, "4*D"),
        (3 * D / (2 * N_H), "3*D/2/N_H"),
        (D / (N_H * N_H), "D/N_H/N_H"),
        (1 / D, "1/D"),
        (D_h * D_h, "D_h*D_h"),
        (as_dim(7), "7"),
        (D / D, "1"),
    ],
)
def test_spelling(dim, text):
    assert str(dim) == text


# -- definitions ------------------------------------------------------------------------------------------


def test_a_defined_dim_equals_what_defines_it():
    assert D_h == D / N_H
    assert N_H * D_h == D
    assert str(D_h) == "D_h"
    assert D_h.names == {"D", "N_H"}


def test_definitions_are_filled_in_all_the_way():
    half = gi.dim("half", D_h / 2)
    assert half * 2 * N_H == D
    assert half.size({"D": 24, "N_H": 3}) == 4


def test_names_with_other_products_differ():
    assert D_h != D
    assert B * S != B * D
    assert D != 4
    assert as_dim(4) == 4
    assert D != "D"


def test_shapes_print_as_the_documents_write_them():
    assert shape_text((B, N_H, S, D_h)) == "[B, N_H, S, D_h]"
    assert shape_text(()) == "[]"


# -- sizes ------------------------------------------------------------------------------------------------


def test_sizes_are_completed_by_the_defined_dims():
    assert resolve_sizes([[B, D_h]], {"B": 2, "D": 8, "N_H": 2}) == {"B": 2, "D": 8, "N_H": 2, "D_h": 4}


def test_a_defined_size_may_be_given_where_it_agrees():
    assert resolve_sizes([[D_h]], {"D": 8, "N_H": 2, "D_h": 4})["D_h"] == 4


def test_numpys_integers_are_sizes_and_dims():
    given = {"B": np.int64(2), "D": np.uint8(8), "N_H": np.int32(2), "D_h": np.int16(4)}
    complete = resolve_sizes([[B, D_h]], given)
    assert complete == {"B": 2, "D": 8, "N_H": 2, "D_h": 4}
    assert {type(size) for size in complete.values()} == {int}
    assert type(D_h.size(given)) is int
    assert as_dim(np.int64(3)) is as_dim(3)
    assert as_dim(3) == np.int64(3) != as_dim(4)
    assert str(np.int64(3) * D / np.int64(2)) == "3*D/2"
    with pytest.raises(DimError, match=r"^D_h=3 contradicts D_h = D/N_H, which is 4$"):
        resolve_sizes([[D_h]], {"D": 8, "N_H": 2, "D_h": np.int64(3)})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"D": 8, "N_H": 2}, "dim B has no size: B is not given; add B=… to the sizes"),
        ({"B": 1, "D": 8}, "dim D_h has no size: N_H is not given; add N_H=… to the sizes"),
        ({"B": 1, "D": 7, "N_H": 2}, "D_h = D/N_H is not whole: D=7, N_H=2 gives 7/2; choose sizes that divide"),
        ({"B": 1, "D": 8, "N_H": 2, "D_h": 3}, "D_h=3 contradicts D_h = D/N_H, which is 4"),
        ({"B": 1, "D": 8, "N_H": 2, "Q": 3}, "no dim of this graph is called Q; its dims are B, D, D_h, N_H"),
        ({"B": 0, "D": 8, "N_H": 2}, "the size of dim B must be a positive int, not 0"),
        ({"B": 2.0, "D": 8, "N_H": 2}, "the size of dim B must be a positive int, not 2.0"),
        ({"B": True, "D": 8, "N_H": 2}, "the size of dim B must be a positive int, not True"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(DimError) as caught:
        resolve_sizes([[B, D_h]], sizes)
    assert str(caught.value) == message


def test_an_undefined_quotient_that_does_not_divide():
    with pytest.raises(DimError, match=r"^D/N_H is not whole: D=7, N_H=2 gives 7/2; choose sizes that divide$"):
        resolve_sizes([[D / N_H]], {"D": 7, "N_H": 2})


# -- what cannot be a dim ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "ä", "_a", *sorted(RESERVED)])
def test_a_name_must_be_a_word(name):
    with pytest.raises(DimError, match="cannot name a dim: a letter, then letters, digits and _") as caught:
        gi.dim(name)
    assert repr(name) in str(caught.value)


def test_a_dim_is_not_defined_by_itself():
    with pytest.raises(DimError, match=r"^dim D cannot be defined by itself: D = D/N_H$"):
        gi.dim("D", D / N_H)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "a dim is a positive size, not 0"),
        (-3, "a dim is a positive size, not -3"),
        (2.5, "a dim is a Dim or a positive int, not 2.5"),
        (True, "a dim is a Dim or a positive int, not True"),
        (np.True_, f"a dim is a Dim or a positive int, not {np.True_!r}"),
        ("D", "a dim is a Dim or a positive int, not 'D'; a name becomes one by gi.dim('D')"),
    ],
)
def test_only_positive_ints_become_dims(value, message):
    with pytest.raises(DimError) as caught:
        as_dim(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: D + 1, "D + 1: dims multiply and divide only; give the sum a name of its own"),
        (lambda: 1 + D, "1 + D: dims multiply and divide only; give the sum a name of its own"),
        (lambda: D - N_H, "D - N_H: dims multiply and divide only; give the difference a name of its own"),
        (lambda: 9 - D, "9 - D: dims multiply and divide only; give the difference a name of its own"),
    ],
)
def test_dims_have_no_sums(attempt, message):
    with pytest.raises(DimError) as caught:
        attempt()
    assert str(caught.value) == f"{message}, by gi.dim, and bind its size with the others"


def test_dims_are_not_rounded():
    with pytest.raises(DimError) as caught:
        D // 2
    assert str(caught.value) == ("D // 2: dims divide exactly, by /; sizes that do not divide are refused when bound")


def test_names_come_in_one_string():
    with pytest.raises(DimError) as caught:
        gi.dims(["B", "S"])
    assert str(caught.value) == "dims takes names in one string, as in dims(\"B S D\"), not ['B', 'S']"
    with pytest.raises(DimError, match=r"^3 cannot name a dim: a letter"):
        gi.dim(3)


def test_definitions_build_on_each_other_only_so_far():
    last = D
    for i in range(DEEPEST):
        last = gi.dim(f"D{i}", 2 * last)
    assert last.depth == DEEPEST
    assert last == 2**DEEPEST * D
    block = gi.Builder("deep")
    block.input("X", (last,))
    graph = block.build()
    assert gi.parse(gi.to_text(graph)) == graph
    with pytest.raises(DimError) as caught:
        gi.dim("over", last * N_H)
    assert str(caught.value) == (
        "dim over = D63*N_H is the last of 65 definitions that build on each other; at most 64 may: "
        "define it by names that are nearer to the first"
    )
    assert (D * gi.dim("other", D / N_H)).depth == 1
