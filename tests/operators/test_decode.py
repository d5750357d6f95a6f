"""The decoding branch: ARG, and TOP-k's choice among the k most probable tokens, by frequency."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphir as gi
from tests.support.evaluate import evaluate, evaluate_block

#: Twelve tokens, none as probable as another, the five most probable not in order.
P = np.asarray([0.02, 0.21, 0.005, 0.16, 0.01, 0.11, 0.03, 0.08, 0.3, 0.04, 0.015, 0.02001])
BEST = [8, 1, 3, 5, 7]


def draw(P, seed=0, step=0, k=5, key=1, **attributes):
    return evaluate(lambda P, *place: gi.top_k(P, *place, k=k, key=key, **attributes), P, seed, step)


def rows(count):
    return np.broadcast_to(P, (count, len(P)))


def survival(statistic, freedom):
    """P(χ² > statistic) for an even number of degrees of freedom: e^(−x/2) Σ_{i < f/2} (x/2)^i / i!."""
    assert freedom % 2 == 0
    half = statistic / 2
    return math.exp(-half) * sum(half**i / math.factorial(i) for i in range(freedom // 2))


def fits(counts, expected):
    """Whether counts in cells are a fair draw, at a probability of 1e-4 of a wrong alarm. The seeds are fixed."""
    assert expected.min() > 5  # what the χ² approximation asks for
    return survival(((counts - expected) ** 2 / expected).sum(), counts.size - 1) > 1e-4


def test_the_survival_function_is_that_of_the_tables():
    assert survival(9.488, 4) == pytest.approx(0.05, rel=1e-3)
    assert survival(26.296, 16) == pytest.approx(0.05, rel=1e-3)


# -- ARG --------------------------------------------------------------------------------------------------


def test_arg_takes_the_most_probable_and_the_first_of_equals():
    ids = evaluate(gi.argmax, np.asarray([[[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]]]))
    assert ids.dtype == "int64"
    np.testing.assert_array_equal(ids, [[1, 0]])


# -- TOP-k ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_probabilities(temperature):
    count = 40_000
    ids = draw(rows(count), temperature=temperature)
    assert set(ids) == set(BEST)
    weights = P[BEST] ** (1 / temperature)
    assert fits(np.bincount(ids, minlength=12)[BEST], count * weights / weights.sum())


def test_a_wrong_temperature_would_be_noticed():
    count = 40_000
    weights = P[BEST] ** (1 / 1.1)
    counts = np.bincount(draw(rows(count), temperature=1.0), minlength=12)[BEST]
    assert not fits(counts, count * weights / weights.sum())


@pytest.mark.slow
def test_frequencies_over_steps():
    block = gi.Builder("steps")
    operands = block.input("P", (12,), "float64"), block.input("seed", (), "int64"), block.input("step", (), "int64")
    run = gi.compile(block.build(gi.top_k(*operands, k=5, name="ids")), {})
    count = 4000
    ids = [int(run({"P": P, "seed": 3, "step": step})["ids"]) for step in range(count)]
    assert fits(np.bincount(ids, minlength=12)[BEST], count * P[BEST] / P[BEST].sum())


def test_neighbours_are_drawn_independently():
    count = 40_000
    ids = draw(rows(count), seed=5)
    place = {token: i for i, token in enumerate(BEST)}
    cells = np.asarray([place[each] for each in ids]).reshape(-1, 2) @ [5, 1]
    share = P[BEST] / P[BEST].sum()
    assert fits(np.bincount(cells, minlength=25), count / 2 * np.outer(share, share).reshape(-1))


@pytest.mark.parametrize("k", [1, 3, 12, 1000])
def test_only_the_k_most_probable_are_ever_drawn(k):
    ids = draw(rows(20_000), k=k, temperature=4.0)
    assert set(ids) == set(np.argsort(-P)[:k])


def test_one_choice_and_no_temperature_are_arg():
    many = np.random.default_rng(1).dirichlet(np.ones(7), (4, 5))
    np.testing.assert_array_equal(draw(many, k=1), many.argmax(axis=-1))
    np.testing.assert_array_equal(draw(many, k=7, temperature=0.0), many.argmax(axis=-1))


def test_of_equals_the_first_are_chosen_as_by_arg():
    even = np.full((5000, 6), 1 / 6, "float32")
    assert set(draw(even, k=1)) == {0}
    assert set(draw(even, k=4)) == {0, 1, 2, 3}
    assert set(draw(np.tile([0.1, 0.3, 0.1, 0.3, 0.1, 0.1], (5000, 1)), k=3)) == {0, 1, 3}


def test_the_impossible_stays_impossible_at_any_temperature():
    P = np.tile(np.asarray([0.0, 0.25, 0.0, 0.75], "float32"), (5000, 1))
    for temperature in (1.0, 50.0):
        assert set(draw(P, k=4, temperature=temperature)) == {1, 3}


def test_the_draw_is_that_of_seed_step_and_key_and_of_nothing_else():
    ids = draw(rows(200), seed=1, step=2, key=3)
    np.testing.assert_array_equal(ids, draw(rows(200), seed=1, step=2, key=3))
    np.testing.assert_array_equal(ids[:50], draw(rows(50), seed=1, step=2, key=3))
    for other in ({"seed": 2}, {"step": 3}, {"key": 4}):
        assert (ids != draw(rows(200), **{"seed": 1, "step": 2, "key": 3, **other})).any()


def test_a_block_of_rows_draws_what_the_whole_would():
    whole = draw(rows(64), seed=9)
    part = evaluate_block(
        gi.top_k, {"b.0": 16}, {"b.0": 64, "v": 12}, rows(64)[16:32], 9, 0, k=5, temperature=1.0, key=1
    )
    np.testing.assert_array_equal(part, whole[16:32])


def test_small_float32_probabilities_are_no_obstacle():
    P = np.asarray([[1e-38, 1e-45, 1.0]], "float32")
    assert evaluate(lambda *operands: gi.top_k(*operands, k=3), P, 0, 0) == [2]
