"""Activations and their slopes at the ends of each dtype, where X² and X³ have no float any more: of any finite X, what
float64 makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.operators.elementwise import KINDS, activation, activation_with_slope, d_activation

EXECUTORS: Mapping[str, Mapping[str, Any]] = {
    "reference": {"backend": "reference"},
    "numpy": {"threads": 1},
    "numba": {"threads": 1, "kernels": "numba"},
}
SIZES = (1e-40, 1e-5, 1, 2.5, 5, 10, 39, 41, 1e4, 6e4, 1e15, 1e25, 3e38)


def exact(kind: str, x: float) -> tuple[float, float]:
    """g(x) and g′(x) in Python's floats, by the definition or, beyond 50, the limit."""
    if kind == "relu" or abs(x) > 50:
        return max(x, 0.0), float(x > 0)
    if kind == "gelu":
        gate, steep = math.erfc(-x / math.sqrt(2)) / 2, math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return x * gate, gate + x * steep
    u = x if kind == "silu" else 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    u_slope = 1 if kind == "silu" else 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    gate = 1 / (1 + math.exp(-u)) if u > -700 else 0.0
    return x * gate, gate + x * gate * (1 - gate) * u_slope


def made(kind: str, X: Any, executor: str) -> Mapping[str, Any]:
    """Of X [n]: g(X), g′(X), and both by the operator that makes them at once."""
    if executor == "numba":
        pytest.importorskip("numba")
    block = gi.Builder("activation")
    x, dY = (block.input(name, gi.dims("n m"), str(X.dtype)) for name in ("X", "dY"))
    both = activation_with_slope.all(x, kind=kind, names=["Y_both", "slope_both"])
    graph = block.build(activation(x, kind=kind, name="Y"), d_activation(x, dY, kind=kind, name="slope"), *both)
    run = gi.compile(graph, {"n": 2, "m": len(X)}, **EXECUTORS[executor])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = run({"X": np.stack([X, X]), "dY": np.ones((2, len(X)), X.dtype)})
        return {name: array[1] for name, array in found.items()}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_of_any_finite_number(executor: str, dtype: str, kind: str) -> None:
    largest = float(np.finfo(dtype).max)
    sizes = [*(size for size in SIZES if size < largest), largest]
    X = np.array([0.0, *sizes, *(-size for size in sizes)]).astype(dtype)
    wanted = np.array([exact(kind, float(x)) for x in X]).T
    error = {"float16": 3e-3, "float32": 2e-6, "float64": 1e-14}[dtype]
    found = made(kind, X, executor)
    for name, array in zip(("Y", "slope", "Y_both", "slope_both"), (*wanted, *wanted), strict=True):
        np.testing.assert_allclose(found[name].astype("float64"), array, rtol=error, atol=error, err_msg=name)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu"])
def test_what_is_not_finite_stays_visible(executor: str, kind: str) -> None:
    found = made(kind, np.array([np.nan, np.inf, -np.inf], "float32"), executor)
    assert np.isnan(found["Y"][0])
    assert np.isnan(found["slope"][0])
    assert not np.isfinite(found["Y"]).any()
