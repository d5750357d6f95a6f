"""Poison: what nobody has written is no number, before each run anew, and what is a caller's is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.emission import Rule, Rules
from graphir.backends.numpy.engine import ENGINE
from tests.support.poison import fill, poisoned

B, D = gi.dims("B D")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16], ids=str)
def test_floats_are_no_numbers(dtype: Any) -> None:
    array = np.zeros((3, 5), dtype)
    fill(array)
    assert np.isnan(array).all()


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_integers_are_no_index(dtype: str) -> None:
    array = np.zeros(7, dtype)
    fill(array)
    assert array.min() > 2**30


@pytest.mark.parametrize("size", [0, 1, 2, 3, 64])
def test_every_byte_is_written(size: int) -> None:
    array = np.zeros(size + 1, np.uint8)[1:]
    fill(array)
    assert (array >= 0x7F).all()


def test_what_the_engine_allocates_is_poisoned_as_long_as_it_lasts() -> None:
    with poisoned() as poison:
        memory, array = ENGINE.allocate(64), ENGINE.empty((2, 3), "float64")
        assert np.isnan(ENGINE.view(memory, (8,), "float64")).all()
        assert np.isnan(array).all()
        array[...] = 1
        poison.refill()
        assert np.isnan(array).all()
    array = ENGINE.empty((2, 3), "float64")
    array[...] = 1
    poison.refill()
    assert (array == 1).all()


def _graph() -> gi.Graph:
    block = gi.Builder("rows", dtype="float64")
    X = block.input("X", (B, D))
    means = gi.scale(gi.reduce_sum(X, (1,)), by=0.5, name="means")
    return block.build(gi.add(X, gi.broadcast(means, (D,), axes=(1,)), name="Y"), means)


def test_a_run_that_writes_all_that_it_reads_is_as_ever_and_results_are_the_callers() -> None:
    arrays = {"X": np.arange(6.0).reshape(2, 3)}
    sizes = {"B": 2, "D": 3}
    wanted = gi.compile(_graph(), sizes, backend="reference")(arrays)
    with poisoned():
        run = gi.compile(_graph(), sizes)
        first = dict(run(arrays))
        second = dict(run({"X": arrays["X"] + 1}))
    for name in ("Y", "means"):
        np.testing.assert_allclose(first[name], wanted[name])
        assert not np.array_equal(first[name], second[name])


def test_a_run_that_reads_what_was_left_over_is_found_out() -> None:
    """A call left out: without poison the second run would find what the first had left."""
    by_formula = Rules.by_formula

    def without_sums(self: Rules, node: gi.Node, attributes: Any) -> Rule | None:
        rule = by_formula(self, node, attributes)
        return rule if rule is None or node.operator.key != "sum" else replace(rule, emit=lambda *given: True)

    with poisoned(), patch.object(Rules, "by_formula", without_sums):
        run = gi.compile(_graph(), {"B": 2, "D": 3}, without=["fuse"], check=False)
        for _ in range(2):
            assert np.isnan(run({"X": np.ones((2, 3))})["Y"]).all()
