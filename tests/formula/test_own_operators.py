"""Operators of a user's own are fused like the dictionary's, with no line beside their declaration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.numpy.engine import NumpyEngine
from graphir.backends.numpy.fast import kernels
from graphir.formula.trace import Formula, formula_of
from graphir.ir.operator import Operator
from graphir.passes import autodiff
from graphir.testing import cases
from tests.backends.numpy.test_fast import Counted, counted, interpreted
from tests.cuda.harness import compile_with_kernels, to_numpy, where
from tests.support.formulas import attributes_of
from tests.support.own_operators import OWN, gated, rotary, rotary_interleaved, swiglu, unit_norm

__all__ = ["counted", "interpreted", "where"]


def _key(operator: Operator) -> str:
    return operator.key


def _check(found: Any, expected: Any, dtype: str, what: str) -> None:
    for name, wanted in expected.items():
        error = np.abs(np.asarray(to_numpy(found[name]), "float64") - wanted).max(initial=0)
        bound = 100 * np.finfo(dtype).eps * (1 + np.abs(wanted).max(initial=0))
        assert error <= bound, f"{name} of {what} is off by {error}"


@pytest.mark.parametrize("operator", OWN, ids=_key)
def test_it_has_a_formula(operator: Operator) -> None:
    for case in cases(operator, count=3):
        formula = formula_of(case.node, attributes_of(case))
        assert isinstance(formula, Formula), formula


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operator", OWN, ids=_key)
def test_numpys_calls_compute_it(operator: Operator, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumpyEngine, "tiling", Tiling(bytes=1 << (7 + 3 * seed), small=1 << 4, causal=(64, 128)))
    for case in cases(operator, count=3, seed=seed):
        expected = gi.compile(case.graph, case.sizes, backend="reference")(case.arrays)
        run = gi.compile(case.graph, case.sizes, threads=1 + seed % 2)
        assert not run.report().fallbacks  # type: ignore[attr-defined]
        _check(run(case.arrays), expected, "float64", str(case))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operator", OWN, ids=_key)
def test_a_fused_kernel_computes_it(operator: Operator, seed: int, interpreted: Counted) -> None:
    for case in cases(operator, "float32", count=3, seed=seed):
        expected = gi.compile(case.graph, case.sizes, backend="reference")(case.arrays)
        _check(
            gi.compile(case.graph, case.sizes, kernels="numba", threads=1)(case.arrays), expected, "float32", str(case)
        )
    assert interpreted.written
    assert not interpreted.refused


def _block() -> tuple[gi.Graph, dict[str, int], dict[str, Any]]:
    """A block of a model as they are today, with its gradients."""
    B, S, N, C, D, F = gi.dims("B S N C D F")
    block = gi.Builder("block")
    X = block.input("X", (B, S, D))
    cos, sin = block.input("cos", (S, C)), block.input("sin", (S, C))
    H = unit_norm(X, block.parameter("gamma", (D,), init="ones"), name="H")
    Q = gi.matmul(H, block.parameter("W_Q", (D, N * (2 * C))), name="Q")
    Q = gi.transpose(gi.reshape(Q, "b s (n c) -> b s n c", n=N), (0, 2, 1, 3))
    turned = gi.add(rotary(Q, cos, sin, name="turned"), rotary_interleaved(Q, cos, sin), name="both")
    up = gi.matmul(H, block.parameter("W_up", (D, 2 * F)), name="up")
    Y = gi.matmul(swiglu(up, name="A"), block.parameter("W_down", (F, D)), name="Y")
    Z = gated(gi.matmul(H, block.parameter("W_G", (D, D))), Y, name="Z")
    loss = gi.add(gi.reduce_sum(gi.multiply(turned, turned)), gi.reduce_sum(gi.multiply(Z, Z)), name="L")
    graph = autodiff(block.build(loss))
    sizes = {"B": 2, "S": 5, "N": 2, "C": 4, "D": 6, "F": 8}
    rng = np.random.default_rng(0)
    arrays = {
        value.name: 0.5 * rng.standard_normal([dim.size(sizes) for dim in value.shape]).astype("float32")
        for value in graph.arguments
    }
    return graph, sizes, arrays


def test_a_block_of_them_and_its_gradients_on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, sizes, arrays = _block()
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    run = gi.compile(graph, sizes)
    assert not run.report().fallbacks  # type: ignore[attr-defined]
    _check(run(arrays), expected, "float32", "a block")


def test_a_block_of_them_and_its_gradients_in_fused_kernels(interpreted: Counted) -> None:
    graph, sizes, arrays = _block()
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    _check(gi.compile(graph, sizes, kernels="numba", threads=1)(arrays), expected, "float32", "a block")
    assert interpreted.written > 4
    assert kernels.LEAST >= 0


def test_a_block_of_them_and_its_gradients_in_cuda(where: str) -> None:
    graph, sizes, arrays = _block()
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    _check(compile_with_kernels(graph, sizes, where)(arrays), expected, "float32", "a block")


def _heads() -> tuple[gi.Graph, dict[str, int], dict[str, Any]]:
    """Grouped heads, which lie side by side in rows, turned by position."""
    B, S, N_KV, G, D_h = gi.dims("B S N_KV G D_h")
    block = gi.Builder("heads")
    Q = block.input("Q", (B, S, N_KV * G * D_h))
    cos, sin = (block.input(name, (B, S, D_h / 2)) for name in ("cos", "sin"))
    heads = gi.transpose(gi.reshape(Q, "b s (k g d) -> b s k g d", k=N_KV, g=G), (0, 2, 3, 1, 4))
    sizes = {"B": 2, "S": 5, "N_KV": 3, "G": 2, "D_h": 8}
    shapes = {"Q": (2, 5, 48), "cos": (2, 5, 4), "sin": (2, 5, 4)}
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    return block.build(gi.rope(heads, cos, sin, name="Y")), sizes, arrays


def test_heads_are_turned_where_they_lie_by_one_kernel(interpreted: Counted) -> None:
    graph, sizes, arrays = _heads()
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    _check(gi.compile(graph, sizes, kernels="numba", threads=1)(arrays), expected, "float32", "heads")
    assert interpreted.written == 1


def test_heads_are_turned_where_they_lie_by_one_launch(where: str) -> None:
    graph, sizes, arrays = _heads()
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    run = compile_with_kernels(graph, sizes, where)
    _check(run(arrays), expected, "float32", "heads")
    assert run.kernels.written == 1  # type: ignore[union-attr]
