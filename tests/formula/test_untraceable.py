"""What has no formula is not given one: kernels that look traceable, and would compute something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.formula.trace import NoFormula, find_formula
from graphir.ir import operator as language
from graphir.ir.signature import expand
from graphir.operators.dropout import keep_mask


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_REGISTRY", dict(language._REGISTRY))
        yield


def _by_name(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Two names of one array, of which one is changed."""
    A = X * 2
    B = A
    B += 1
    return A * B


def _by_size(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Another formula for short rows."""
    return X * 2 if X.shape[-1] > 3 else X


def _by_content(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """Another formula where the sum is positive."""
    return X if X.sum() > 0 else -X


def _by_length(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """A number that is made of a length in Python."""
    return X * (1.0 / int(X.shape[-1]))


def _wide(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """A difference of large numbers, which float32 has not the digits for."""
    wide = X.astype("float64")
    return ((wide + 1e9) - 1e9).astype(X.dtype)


def _numpy(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """By NumPy itself, whatever the array module."""
    return np.exp(X)


def _part(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """The first half twice, of a dim that is not said to be even."""
    half = X.shape[-1] // 2
    return xp.concatenate((X[..., :half], X[..., :half]), axis=-1)


def _written(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """The first column set to 0."""
    Y = X * 1
    Y[..., 0] = 0
    return Y


def _sorted(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """What no formula has."""
    return xp.sort(X, axis=-1)


def _split(xp: gi.Xp, X: gi.Array) -> gi.Array:
    """The halves in the other order, of a dim that is not said to have any."""
    first, second = xp.split(X, 2, axis=-1)
    return xp.concatenate((second, first), axis=-1)


def test_a_result_of_another_dtype_is_left_to_the_kernel() -> None:
    def scaled(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Y = √2 X, in float64: NumPy's numbers have a dtype of their own."""
        return X * np.sqrt(2)

    made = language.Operator("scaled", "X[*b] -> Y[*b]", scaled, no_gradient="a test asks for none")
    block = gi.Builder("scaled")
    graph = block.build(made(block.input("X", gi.dims("B")), name="Y"))
    (fallback,) = gi.compile(graph, {"B": 3}).report().fallbacks  # type: ignore[attr-defined]
    assert fallback.reason == "its result Y is of another dtype than its signature says"


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (_by_name, "it changes an array in place; say Y = Y + X for Y += X"),
        (_by_size, "what it does depends on how long d is"),
        (_by_content, "what it does depends on a number that is known at run time only"),
        (_by_length, "it makes a Python number of the length d"),
        (_wide, "it computes in float64 what is float32"),
        (_numpy, "it fails on symbols: TypeError"),
        (_part, "it divides the length d, of which the signature does not say that it can be: write the axis"),
        (_split, "it splits an axis that its signature does not name: write the axis as (2 c)"),
        (_written, "it writes into an array in place"),
        (_sorted, "it calls xp.sort, which no formula has"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_kernel_is_called_as_it_is_and_the_report_says_why(kernel: Callable[..., Any], reason: str) -> None:
    made = gi.operator("odd", "X[*b d!] -> Y[*b d!]", no_gradient="a test asks for none")(kernel)
    (signature,) = made.signatures({})
    rule = expand(signature, (2,))
    assert rule is not None
    found = find_formula(made, rule, {})
    assert isinstance(found, NoFormula)
    assert found.reason.startswith(reason), found
    B, D = gi.dims("B D")
    block = gi.Builder("odd")
    graph = block.build(gi.scale(made(block.input("X", (B, D)), name="H"), by=2.0, name="Y"))
    X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    for options in ({}, {"kernels": "numba"}):
        run = gi.compile(graph, {"B": 3, "D": 4}, threads=1, **options)
        (fallback,) = run.report().fallbacks  # type: ignore[attr-defined]
        assert str(fallback).startswith("H = odd(…) (tests/formula/test_untraceable.py:")
        assert reason in fallback.reason
        assert np.array_equal(run({"X": X})["Y"], 2 * kernel(np, X.copy()))


#: By what they take of an array: a kernel, its signature, and why it has no formula.
PARTS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "an element of two axes in one": (
        lambda xp, X: X[..., 0],
        "X[*b (2 d)] -> Y[*b]",
        "it takes the element 0 of an axis",
    ),
    "all but a third": (
        lambda xp, X: X[..., X.shape[-1] // 3 :].sum(axis=-1),
        "X[*b (3 d)] -> Y[*b]",
        "it takes a part of an axis that its signature does not name",
    ),
    "every other element of a half": (
        lambda xp, X: X[..., : X.shape[-1] // 2 : 2].sum(axis=-1),
        "X[*b (2 d)] -> Y[*b]",
        "it takes a part of an axis that its signature does not name",
    ),
    "elements by their numbers": (
        lambda xp, X: X[..., xp.arange(X.shape[-1])],
        "X[*b d!] -> Y[*b d!]",
        "it indexes an array by what is no number",
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_none_of_a_formulas_is_left_to_the_kernel(name: str) -> None:
    kernel, signature, reason = PARTS[name]
    kernel.__doc__ = "As it is written."
    made = gi.operator("part", signature, no_gradient="a test asks for none")(kernel)
    rule = expand(made.signatures({})[0], (2,))
    assert rule is not None
    found = find_formula(made, rule, {})
    assert isinstance(found, NoFormula)
    assert found.reason.startswith(reason), found


def test_a_mask_by_another_key_is_none_of_the_formulas() -> None:
    @gi.operator("masked", "X[*b], seed[] int, step[] int -> Y[*b]", random=True, no_gradient="a test asks for none")
    def masked(xp: gi.Xp, X: gi.Array, seed: gi.Array, step: gi.Array, *, key: int, at: gi.Place) -> gi.Array:
        """Y = X ⊙ m, with the mask of the next key."""
        starts, sizes = at.region("X")
        return X * keep_mask(xp, starts, sizes, X.shape, seed, step, key + 1, 0.5)

    rule = expand(masked.signatures({})[0], (2, 0, 0))
    assert rule is not None
    found = find_formula(masked, rule, {"key": 3})
    assert isinstance(found, NoFormula)
    assert found.reason == "it draws a mask by other than its operands seed and step and its key"


def test_a_kernel_that_computes_with_its_key_is_called_as_it_is() -> None:
    @gi.operator("keyed", "X[*b], seed[] int, step[] int -> Y[*b]", random=True, no_gradient="a test asks for none")
    def keyed(xp: gi.Xp, X: gi.Array, seed: gi.Array, step: gi.Array, *, key: int) -> gi.Array:
        """Y = X by its node's number."""
        return X * (key + 2)

    block = gi.Builder("keyed")
    seed, step = (block.input(name, (), "int64") for name in ("seed", "step"))
    once = keyed(block.input("X", gi.dims("B")), seed, step, name="once")
    graph = block.build(once, keyed(once, seed, step, name="twice"))
    given = {"X": np.ones(3, "float32"), "seed": 0, "step": 0}
    expected = gi.compile(graph, {"B": 3}, backend="reference")(given)
    for options in ({}, {"kernels": "numba"}):
        run = gi.compile(graph, {"B": 3}, threads=1, **options)
        assert {each.reason for each in run.report().fallbacks} == {  # type: ignore[attr-defined]
            "it computes with its key, which is another one in each node"
        }
        assert all(np.array_equal(run(given)[name], expected[name]) for name in ("once", "twice"))


def test_what_is_computed_in_double_precision_beside_float32_stays_so() -> None:
    """Angles of far places have no digits left in float32."""

    @gi.operator("turned", "X[*b s d] -> Y[*b s d]", no_gradient="a test asks for none")
    def turned(xp: gi.Xp, X: gi.Array) -> gi.Array:
        """Y = X + sin(1e6 s / S)."""
        angle = xp.arange(X.shape[-2]) / X.shape[-2] * 1e6
        return X + xp.sin(angle)[:, None].astype(X.dtype)

    B, S, D = gi.dims("B S D")
    block = gi.Builder("turned")
    graph = block.build(turned(block.input("X", (B, S, D)), name="Y"))
    sizes = {"B": 2, "S": 7, "D": 4}
    X = np.zeros((2, 7, 4), "float32")
    expected = gi.compile(graph, sizes, backend="reference")({"X": X})["Y"]
    for options in ({}, {"kernels": "numba"}):
        assert np.allclose(gi.compile(graph, sizes, threads=1, **options)({"X": X})["Y"], expected, atol=1e-6)
