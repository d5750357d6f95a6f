"""Types: those that are equal and written alike are one object; what they refuse."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest

import graphir as gi
from graphir.errors import TypeCheckError
from graphir.ir.layout import Layout
from graphir.ir.types import TensorType

B, D, N_H = gi.dims("B D N_H")


def test_one_object_a_type() -> None:
    type_ = TensorType("float32", (B, D), Layout([("dp",), ()]))
    assert TensorType("float32", [B, D], Layout([["dp"], []])) is type_
    assert TensorType("float32", (B, 3)) is TensorType("float32", (B, gi.Dim((), 3)))
    assert copy.deepcopy(type_) is copy.copy(type_) is type_
    assert pickle.loads(pickle.dumps(type_)) is type_


@pytest.mark.parametrize(
    "other",
    [
        TensorType("float64", (B, D)),
        TensorType("float32", (D, B)),
        TensorType("float32", (B,)),
        TensorType("float32", (B, D), Layout([("dp",), ()])),
        TensorType("float32", (B, D), Layout([(), ()], {"dp": "sum"})),
    ],
    ids=str,
)
def test_types_that_differ_in_anything_differ(other: TensorType) -> None:
    assert other != TensorType("float32", (B, D))


def test_equal_types_keep_their_spelling() -> None:
    """D_h is D/N_H, but a graph that says D_h prints D_h."""
    named, spelled = TensorType("float32", (gi.dim("D_h", D / N_H),)), TensorType("float32", (D / N_H,))
    assert named == spelled
    assert hash(named) == hash(spelled)
    assert (str(named), str(spelled)) == ("float32[D_h]", "float32[D/N_H]")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TensorType("float33", (B,)), "'float33' is no dtype; choose from float16, "),
        (lambda: TensorType("float32", B), "a shape is a tuple of dims, not B; with one dim it is (B,)"),
        (lambda: TensorType("float32", (B,), Layout([(), ()])), "layout [·, ·] is for 2 dims, not 1"),
    ],
)
def test_what_is_no_type(make: object, text: str, times: int) -> None:
    """Nor is it one when it is tried again: what was refused is not kept."""
    assert callable(make)
    for _ in range(times):
        with pytest.raises(TypeCheckError) as caught:
            make()
        assert str(caught.value).startswith(text)


def test_types_and_layouts_live_as_long_as_somebody_holds_them() -> None:
    """So that who makes graphs for days, each with dims of its own, holds no more than those that there are."""
    layout = Layout([("some",), ("other",)])
    made = TensorType("float32", gi.dims("Once Never_again"), layout)
    assert TensorType("float32", gi.dims("Once Never_again"), Layout([("some",), ("other",)])) is made
    gone = weakref.ref(made), weakref.ref(layout)
    del made, layout
    assert [each() for each in gone] == [None, None]


def test_layouts_that_two_threads_make_at_once_are_equal() -> None:
    parts = ((("dp",), ()), (("tp", "sum"),))
    one, other = Layout._make(*parts), Layout._make(*parts)
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    assert one != Layout._make((("dp",), ()), ())
