"""Single operators, forward and backward, and optimizers' updates against PyTorch: recorded, and live.

`tests/fixtures/operator_cases.py` has the cases, `record_operators.py` recorded them. Differences are relative
to the tensor's largest element: 1e-14 in float64, a few dozen roundings; 1e-6 in float32, about eight of them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import graphir as gi
from graphir.passes import autodiff
from tests.fixtures.operator_cases import CASES, FORWARD, LEARNING_RATE, RECORDED, draw, theirs, weights

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}

over_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cache
def recorded(case, kind):
    with np.load(RECORDED, allow_pickle=False) as arrays:
        names = sorted(name for name in arrays.files if name.startswith(f"{case.name}/{kind}/"))
        return tuple(arrays[name] for name in names)


def ours(case, arrays, dtype):
    """The outputs of the case's piece of graph, and the gradients of its float operands."""
    block = gi.Builder("piece", dtype=dtype)
    arrays = [each.astype(dtype) if each.dtype == "float64" else each for each in arrays]
    given = {f"X{i}": array for i, array in enumerate(arrays)}
    values = [block.input(name, array.shape, str(array.dtype)) for name, array in given.items()]
    made = case.ours(*values)
    terms = []
    for i, (each, R) in enumerate(zip(made, weights(recorded(case, "out")), strict=True)):
        given[f"R{i}"] = R.astype(dtype)
        terms.append(gi.reduce_sum(gi.multiply(each, block.input(f"R{i}", R.shape, dtype))))
    graph = block.build(gi.add(*terms, name="L"), *made)
    differentiable = [value.name for value in values if value.type.is_float] if case in FORWARD else []
    if differentiable:
        graph = autodiff(graph, "L", wrt=differentiable)
    for value in graph.inputs:
        if value.name not in given:
            # An optimizer's: state from zero, the number of the step, the rate.
            name, rest = value.name[:4], value.name[4:]
            scalar = int(rest) if name == "step" else LEARNING_RATE if value.name == "lr" else 0
            given[value.name] = np.full([dim.size({}) for dim in value.shape], scalar, value.dtype)
    out = gi.compile(graph, {})(given)
    return [out[value.name] for value in made], [out[f"d{name}"] for name in differentiable]


def agree(found, expected, dtype):
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == other.shape
        scale = max(np.abs(other).max(), 1e-3)
        assert np.abs(mine - other).max() <= TOLERANCE[dtype] * scale


@over_cases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_operators_give_what_was_recorded(case, dtype):
    outputs, gradients = ours(case, recorded(case, "in"), dtype)
    agree(outputs, recorded(case, "out"), dtype)
    agree(gradients, recorded(case, "gradient"), dtype)
    assert bool(gradients) == (case in FORWARD)


@pytest.mark.torch
@over_cases
def test_operators_give_what_torch_gives(case):
    pytest.importorskip("torch")
    inputs = draw(case)
    expected, expected_gradients = theirs(case, inputs)
    outputs, gradients = ours(case, inputs, "float64")
    agree(outputs, expected, "float64")
    agree(gradients, expected_gradients, "float64")


def test_nothing_is_recorded_that_no_case_reads():
    with np.load(RECORDED, allow_pickle=False) as arrays:
        assert {name.partition("/")[0] for name in arrays.files} == {case.name for case in CASES}
