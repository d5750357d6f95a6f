"""Integers of a place as sums: the same numbers as the terms that they are read off."""

from __future__ import annotations

import random

import numpy as np
import pytest

from graphir.formula.evaluate import evaluate
from graphir.formula.places import sum_of
from graphir.formula.terms import Term, Terms

ORDER = ("q", "k")
LENGTHS, STARTS, TOTALS = {"q": 3, "k": 4}, {"q": 5, "k": 2}, {"q": 20, "k": 30}


def _draw(terms: Terms, rng: random.Random, depth: int) -> Term:
    if depth == 0 or rng.random() < 0.1:
        factor = rng.choice(ORDER)
        return rng.choice(
            [
                terms.number(rng.randint(-3, 3), "int"),
                terms.leaf("index", factor, (factor,), "int"),
                terms.leaf("start", factor, (), "int"),
                terms.leaf("total", (factor,), (), "int"),
            ]
        )
    operation = rng.choice(["add", "subtract", "negative", "multiply", "multiply"])
    count = 1 if operation == "negative" else 2
    return terms.apply(operation, *(_draw(terms, rng, depth - 1) for _ in range(count)))


def _value(term: Term) -> np.ndarray:
    (made,) = evaluate(np, [term], ORDER, LENGTHS, {}, dtype="float64", starts=STARTS, totals=TOTALS)
    return np.broadcast_to(made, (3, 4))


@pytest.mark.parametrize("seed", range(60))
def test_a_sum_is_the_integer_that_it_was_read_off(seed: int) -> None:
    term = _draw(Terms(), random.Random(seed), 4)
    found = sum_of(term)
    known = found.at(lambda place: {"start": STARTS, "total": TOTALS}[place[0]][place[1]])
    index = np.indices((3, 4))
    steps = sum(count * index[ORDER.index(factor)] for factor, count in found.steps.items())
    others = sum(count * _value(each) for count, each in found.others)
    assert np.all(known + steps + others == _value(term)), term


def test_a_multiple_of_an_index_is_no_other_term() -> None:
    terms = Terms()
    q, two = terms.leaf("index", "q", ("q",), "int"), terms.number(2, "int")
    for product in (terms.apply("multiply", q, two), terms.apply("multiply", two, q)):
        found = sum_of(terms.apply("subtract", product, terms.leaf("start", "k", (), "int")))
        assert (found.places, found.others) == ({("index", "q"): 2, ("start", "k"): -1}, ())
    assert sum_of(terms.apply("multiply", q, q)).others
