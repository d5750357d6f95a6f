"""Which token follows: the bounds of what is drawn, by counting draws."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphir.errors import ConfigError
from graphir.generation import Choice
from graphir.generation.choice import choose

LOGITS = np.log(np.array([0.05, 0.4, 0.25, 0.2, 0.1], np.float32))


def drawn(draws: int = 500, **options: Any) -> Counter[int]:
    choice = Choice(**{"temperature": 1.0, "top_k": 0, **options})
    return Counter(choose(choice, LOGITS, (), 0, step) for step in range(draws))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"temperature": 0}, {1}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_p": 0.6}, {1, 2}),
        ({"top_p": 0.7}, {1, 2, 3}),
        ({"top_p": 1e-9}, {1}),
        ({"min_p": 0.45}, {1, 2, 3}),
        ({"min_p": 1}, {1}),
        ({"top_k": 2, "top_p": 0.99, "min_p": 0.01}, {1, 2}),
    ],
)
def test_what_may_be_drawn_is_what_the_bounds_leave(options: dict[str, Any], left: set[int]) -> None:
    assert set(drawn(**options)) == left


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    counts = drawn(4000)
    shares = np.array([counts[id] for id in range(5)]) / 4000
    np.testing.assert_allclose(shares, np.exp(LOGITS), atol=0.03)
    cold = drawn(4000, temperature=0.5)
    wanted = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose([cold[id] / 4000 for id in range(5)], wanted, atol=0.03)


def test_what_has_occurred_is_less_probable() -> None:
    greedy = Choice(temperature=0, repetition=2.0)
    assert choose(greedy, np.array([1.0, 1.5, -1.0]), (), 0, 0) == 1
    assert choose(greedy, np.array([1.0, 1.5, -1.0]), (1,), 0, 0) == 0
    assert choose(greedy, np.array([-1.0, -0.6]), (1, 1), 0, 0) == 0


def test_a_draw_is_keyed_by_seed_text_and_step() -> None:
    keys = [(seed, text, step) for seed in range(3) for text in range(3) for step in range(3)]
    flat = np.zeros(10000)
    found = {key: choose(Choice(top_k=0, seed=key[0]), flat, (), *key[1:]) for key in keys}
    assert found == {key: choose(Choice(top_k=0, seed=key[0]), flat, (), *key[1:]) for key in keys}
    assert len(set(found.values())) > 20


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition": 0},
        {"seed": -1},
    ],
)
def test_what_no_bound_can_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Choice(**options)
