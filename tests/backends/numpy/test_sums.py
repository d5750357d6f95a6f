"""Sums of products as NumPy adds them up, however the factors lie: whole, transposed, or repeating themselves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.emission import Array
from graphir.backends.numpy.formulas import rule_of
from graphir.formula.trace import Formula, find_formula
from graphir.ir.operator import Operator, Place
from graphir.ir.signature import expand
from tests.backends.numpy.test_rules import Recorder

SHAPE = (3, 4, 5)
#: How a factor may lie, of an array of that shape.
WAYS: dict[str, Callable[[Array], Array]] = {
    "whole": lambda X: X,
    "transposed": lambda X: np.copy(X, order="F"),
    "one number a row": lambda X: np.broadcast_to(X[..., :1], SHAPE),
    "one row": lambda X: np.broadcast_to(X[:1, :1], SHAPE),
    "one number": lambda X: np.broadcast_to(X[:1, :1, :1], SHAPE),
}


def _dots(xp: gi.Xp, X: gi.Array, Y: gi.Array) -> gi.Array:
    """Z = Σ X ⊙ Y over d."""
    return (X * Y).sum(axis=-1)


def _all(xp: gi.Xp, X: gi.Array, Y: gi.Array) -> gi.Array:
    """Z = Σ X ⊙ Y over everything."""
    return (X * Y).sum()


def _columns(xp: gi.Xp, X: gi.Array, Y: gi.Array) -> gi.Array:
    """Z = Σ X ⊙ Y over the rows."""
    return (X * Y).sum(axis=(0, 1))


@pytest.mark.parametrize(("kernel", "made"), [(_dots, "Z[a b]"), (_all, "Z[]"), (_columns, "Z[d]")])
def test_a_sum_of_products_is_the_kernels_however_its_factors_lie(kernel: Callable[..., Array], made: str) -> None:
    operator = Operator("products", f"X[a b d], Y[a b d] -> {made}", kernel, no_gradient="a test asks for none")
    (signature,) = operator.signatures({})
    rule = expand(signature, ()) or signature
    formula = find_formula(operator, rule, {})
    assert isinstance(formula, Formula), formula
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, *SHAPE)).astype("float32")
    for one, other in product(WAYS, WAYS):
        operands = {"X": WAYS[one](X), "Y": WAYS[other](Y)}
        expected = np.asarray(kernel(np, *operands.values()))
        found, calls = np.empty(expected.shape, "float32"), Recorder()
        assert rule_of(formula).emit(calls, operands, {"Z": found}, Place(rule, {}, {}), {})
        calls.run()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{one}, {other}")
