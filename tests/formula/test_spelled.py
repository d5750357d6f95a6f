"""Formulas as text: what models are made of reads as in papers, and every text computes what its formula does."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

import graphir as gi
from graphir.formula.evaluate import evaluate
from graphir.formula.spelled import LONGEST, spell, spell_term
from graphir.formula.terms import Term, Terms
from graphir.ir.operator import Operator
from graphir.operators import activation, softmax
from graphir.testing import cases
from tests.support.own_operators import d_unit_norm, gated, rotary, rotary_interleaved, swiglu, unit_norm


@gi.operator("residual", "X[*b], F[*b] -> Y[*b]", no_gradient="it is only written")
def residual(xp: gi.Xp, X: gi.Array, F: gi.Array) -> gi.Array:
    """Y = X + F."""
    return X + F


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        (unit_norm, "X·γ/√(ΣX²+ε)"),
        (swiglu, "X₁·σ(X₁)·X₂"),
        (gated, "G·σ(G)·U"),
        (rotary, "(X₁·cos−X₂·sin, X₁·sin+X₂·cos)"),
        (rotary_interleaved, "(X₁·cos−X₂·sin, X₁·sin+X₂·cos)"),
        (residual, "X+F"),
        (activation, "X·0.5·(1+erf(X/√2))"),
        # Two results, and one of a masked row: their names say more.
        (d_unit_norm, None),
        (softmax, None),
    ],
    ids=lambda each: getattr(each, "key", None),
)
def test_the_operators_of_todays_models(operator: Operator, text: str | None) -> None:
    assert spell(next(iter(cases(operator, count=1))).node) == text


def test_signs() -> None:
    terms = Terms()
    X, Y = (terms.leaf("operand", name, ("d",), "float") for name in "XY")
    number, make = terms.number, terms.apply
    least = make("where", make("less_equal", X, Y), X, make("negative", Y))
    mean = make("divide", terms.reduce("sum", X, "d"), terms.leaf("extent", ("d",), (), "int"))
    texts = {
        make("subtract", X, make("subtract", Y, X)): "X−(Y−X)",
        make("add", X, make("negative", Y)): "X−Y",
        make("divide", X, make("divide", Y, X)): "X/(Y/X)",
        make("multiply", make("divide", number(1.0), make("sqrt", Y)), X): "X/√Y",
        make("power", make("add", X, number(-1e-6)), number(2)): "(X+(−10⁻⁶))²",
        make("multiply", X, number(0.1)): "X·α",
        make("multiply", least, X): "(X if X≤Y else −Y)·X",
        make("subtract", X, mean): "X−mean(X)",
        make("absolute", make("maximum", X, terms.reduce("max", Y, "d"))): "|max(X, max(Y))|",
    }
    assert {term: spell_term(term, {0.1: "α"}) for term in texts} == texts


def test_what_is_long_or_has_no_words_has_no_text() -> None:
    terms = Terms()
    X = terms.leaf("operand", "X", ("b", "d"), "float")
    assert spell_term(terms.apply("add", X, terms.leaf("index", "d", ("d",), "float")), {}) is None
    assert spell_term(terms.apply("multiply", X, terms.number(1 / 3)), {}) is None, "a number of sixteen digits"
    both = terms.apply("add", terms.reduce("sum", X, "b"), terms.reduce("sum", X, "d"))
    assert spell_term(both, {}) is None, "sums in two directions look alike"
    for _ in range(20):
        X = terms.apply("exp", terms.apply("add", X, X))
    assert spell_term(X, {}) is None, "a text of two to the twentieth"


# -- no bracket is missing ----------------------------------------------------------------------------------


class _Root:
    """√ as a number: _Root() ** x, which binds as √x does."""

    def __pow__(self, x: float) -> float:
        return float(np.sqrt(x))


def _draw(terms: Terms, source: random.Random, depth: int) -> Term:
    if not depth or source.random() < 0.2:
        return source.choice([*(terms.leaf("operand", name, (), "float") for name in "XYZ"), terms.number(2.5)])
    operation = source.choice(["add", "subtract", "multiply", "divide", "negative", "sqrt", "power", "exp", "maximum"])
    if operation == "power":
        return terms.apply(operation, _draw(terms, source, depth - 1), terms.number(source.choice([2, 3])))
    count = 1 if operation in ("negative", "sqrt", "exp") else 2
    return terms.apply(operation, *(_draw(terms, source, depth - 1) for _ in range(count)))


def _read(text: str, values: dict[str, float]) -> float:
    raised = re.sub("[²³⁴-⁹]", lambda found: f"**{'⁰¹²³⁴⁵⁶⁷⁸⁹'.index(found[0])}", text)
    code = raised.replace("·", "*").replace("−", "-").replace("√", "root**")
    known = {**values, "root": _Root(), "exp": np.exp, "max": np.maximum, "σ": lambda x: 1 / (1 + np.exp(-x))}
    return float(eval(code, known))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_text_means_what_its_formula_computes() -> None:
    read = 0
    for seed in range(1000):
        source, terms = random.Random(seed), Terms("float64")
        term = _draw(terms, source, 4)
        text = spell_term(term, {})
        if text is None:
            continue
        assert len(text) <= LONGEST
        values = {name: source.uniform(0.5, 2.0) for name in "XYZ"}
        operands = {name: np.asarray(value) for name, value in values.items()}
        (wanted,) = evaluate(np, [term], [], {}, operands, dtype="float64")
        if np.isfinite(wanted) and abs(wanted) < 1e6:
            assert _read(text, {k: np.float64(v) for k, v in values.items()}) == pytest.approx(float(wanted)), text
            read += 1
    assert read > 300
