"""The whole model against an independent implementation: values, loss, gradients, and 50 steps of AdamW.

`tests/fixtures/reference.py` is that implementation, by PyTorch; `tests/fixtures/record.py` recorded what it
gave in float64. Compared by the norm of the difference relative to the tensor's norm: 1e-10 in float64, 1e-5
in float32, where the recorded truth is still that of float64. The gradient of a bias on K is zero
analytically (it shifts all scores of a query alike), so what is left is rounding, compared absolutely.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import graphir as gi
from graphir.passes import autodiff
from graphir.testing import distance
from tests.fixtures.variants import SIZES, STEPS, VARIANTS, Variant, fixture_path, masks_of

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

Arrays = Mapping[str, NDArray[np.float64]]

over_variants = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
over_dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


@cache
def recorded(variant: Variant) -> Arrays:
    with np.load(fixture_path(variant), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def group(arrays: Arrays, kind: str) -> dict[str, NDArray[np.float64]]:
    """`gradient/…` by the names after the slash."""
    return {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")}


def gradient_name(name: str) -> str:
    scope, _, local = name.rpartition("/")
    return f"{scope}/d{local}"


def compare(variant: Variant, dtype: str, values: Arrays, gradients: Arrays) -> None:
    """graphir's first step in `dtype` against these values and gradients."""
    joint = autodiff(variant.graph(dtype))
    names = [*values, *map(gradient_name, gradients)]
    run = gi.compile(joint, SIZES, fetch=names)
    found = run(variant.parameters(dtype), variant.batch(0))
    wrong = {}
    for name, expected in [*values.items(), *((gradient_name(n), g) for n, g in gradients.items())]:
        assert found[name].dtype == dtype
        assert found[name].shape == expected.shape
        zero = name.endswith("/db_K")
        error = float(np.linalg.norm(found[name] - expected)) if zero else distance(found[name], expected)
        if not error <= TOLERANCE[dtype]:
            wrong[name] = error
    assert not wrong, f"{variant.name} in {dtype} departs from the reference: {wrong}"


def train(variant: Variant, dtype: str) -> list[float]:
    """The losses of graphir's own steps."""
    graph = variant.training_step(dtype)
    run = gi.compile(graph, SIZES)
    tensors = variant.parameters(dtype)
    tensors |= {value.name: np.zeros_like(tensors[value.name.rpartition(".")[0]]) for value in graph.state}
    losses = []
    for step in range(STEPS):
        result = run(tensors, variant.batch(step))
        losses.append(float(result["L"]))
        tensors = result.updated()
    return losses


@over_variants
def test_the_recorded_weights_and_masks_are_the_ones_drawn_here(variant: Variant) -> None:
    arrays = recorded(variant)
    parameters, batch, (masks,) = variant.parameters("float32"), variant.batch(0), masks_of(variant, 1)
    assert set(group(arrays, "weight")) == set(parameters)
    assert set(group(arrays, "mask")) == set(masks)
    assert all(np.array_equal(array, parameters[name]) for name, array in group(arrays, "weight").items())
    assert all(np.array_equal(array, batch[name]) for name, array in group(arrays, "batch").items())
    assert all(np.array_equal(array, np.packbits(masks[name])) for name, array in group(arrays, "mask").items())


@over_variants
@over_dtypes
def test_values_and_gradients_are_those_recorded(variant: Variant, dtype: str) -> None:
    arrays = recorded(variant)
    assert set(group(arrays, "gradient")) == {value.name for value in variant.graph(dtype).parameters}
    compare(variant, dtype, group(arrays, "value"), group(arrays, "gradient"))


@over_variants
def test_fifty_steps_lose_what_was_recorded(variant: Variant) -> None:
    """Each variant in one dtype: a step of it in the other is compared above."""
    dtype = [*TOLERANCE][VARIANTS.index(variant) % len(TOLERANCE)]
    losses = recorded(variant)["losses"]
    assert len(losses) == STEPS
    errors = np.abs(np.array(train(variant, dtype)) - losses) / losses
    assert errors.max() <= TOLERANCE[dtype], f"step {errors.argmax()} is off by {errors.max():.1e}, relative"


@pytest.mark.torch
@over_variants
@over_dtypes
def test_values_gradients_and_losses_are_those_of_torch(variant: Variant, dtype: str) -> None:
    pytest.importorskip("torch")
    from tests.fixtures import reference

    batches, masks = [variant.batch(step) for step in range(STEPS)], masks_of(variant, STEPS)
    weights = variant.parameters(dtype)
    result = reference.train(weights, batches, masks, SIZES["N_H"], variant.options, variant.optimizer)
    compare(variant, dtype, result.values, result.gradients)
    assert distance(np.array(train(variant, dtype)), np.array(result.losses)) <= TOLERANCE[dtype]
