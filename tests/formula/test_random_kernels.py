"""Kernels that nobody wrote: whatever a formula is made into computes what the kernel does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.numpy.engine import NumpyEngine
from graphir.backends.numpy.fast import build, kernels
from graphir.formula.trace import Formula, find_formula
from graphir.ir import operator as language
from graphir.ir.signature import expand
from tests.support.random_halves import draw_halved
from tests.support.random_kernels import draw_arrays, draw_operator

SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 160))]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """What is drawn is gone after the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_REGISTRY", dict(language._REGISTRY))
        yield


def _graph(seed: int, dtype: str) -> tuple[gi.Graph, dict[str, int], dict[str, Any]]:
    """The operator between two of the dictionary's, so that there is something to fuse it with."""
    B, S, D = gi.dims("B S D")
    block = gi.Builder("drawn", dtype=dtype)
    X, Y, w, r = (
        block.input(name, dims) for name, dims in (("X", (B, S, D)), ("Y", (B, S, D)), ("w", (D,)), ("r", (B, S)))
    )
    P, Q, s = draw_operator(seed).all(gi.scale(X, by=0.5), gi.add(X, Y), w, r)
    graph = block.build(gi.multiply(P, Q, name="Z"), gi.scale(P, by=2.0, name="P2"), gi.scale(s, by=3.0, name="s3"))
    rng = np.random.default_rng(seed)
    sizes = {"B": int(rng.integers(1, 4)), "S": int(rng.integers(1, 9)), "D": int(rng.choice([1, 2, 3, 7, 16, 33]))}
    return graph, sizes, draw_arrays(seed, (sizes["B"], sizes["S"]), sizes["D"], dtype)


def _graph_of_parts(seed: int, dtype: str) -> tuple[gi.Graph, dict[str, int], dict[str, Any]]:
    """One whose rows have two parts, of operands that may be written over, or of which one is read again."""
    rng = np.random.default_rng(seed)
    B, D = gi.dims("B D")
    block = gi.Builder("drawn", dtype=dtype)
    X, Y = (block.input(name, (B, 2 * D)) for name in "XY")
    U, w = block.input("U", (B, D)), block.input("w", (D,))
    made = [gi.scale(X, by=0.5), gi.add(X, Y), gi.scale(U, by=-0.5)]
    given = [wide if rng.random() < 0.7 else plain for wide, plain in zip(made, (X, Y, U), strict=True)]
    P, Q, R = draw_halved(seed).all(*given, w)
    graph = block.build(gi.multiply(P, Q, name="Z"), gi.scale(Q, by=2.0, name="Q2"), gi.scale(R, by=3.0, name="R3"))
    sizes = {"B": int(rng.integers(1, 6)), "D": int(rng.choice([1, 2, 3, 7, 16]))}
    shapes = {value.name: tuple(dim.size(sizes) for dim in value.shape) for value in graph.inputs}
    return graph, sizes, {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


#: By what is drawn.
GRAPHS = {"rows": _graph, "parts": _graph_of_parts}


def _check(found: Any, expected: Any, dtype: str, what: str) -> None:
    for name, wanted in expected.items():
        error = np.abs(np.asarray(found[name], "float64") - wanted).max(initial=0)
        bound = 400 * np.finfo(dtype).eps * (1 + np.abs(wanted).max(initial=0))
        assert error <= bound, f"{name} of {what} is off by {error}"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_drawn_kernel_has_a_formula(seed: int) -> None:
    for drawn, ranks in ((draw_operator(seed), (3, 3, 1, 2)), (draw_halved(seed), (3, 3, 3, 1))):
        rule = expand(drawn.signatures({})[0], ranks)
        assert rule is not None
        assert isinstance(find_formula(drawn, rule, {}), Formula)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("drawn", GRAPHS)
def test_numpys_calls_compute_what_the_kernel_does(seed: int, drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumpyEngine, "tiling", Tiling(bytes=1 << (6 + seed % 8), small=1 << 4, causal=(64, 128)))
    graph, sizes, arrays = GRAPHS[drawn](seed, "float64")
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    run = gi.compile(graph, sizes, threads=1 + seed % 3)
    assert not run.report().fallbacks  # type: ignore[attr-defined]
    _check(run(arrays), expected, "float64", f"seed {seed}")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("drawn", GRAPHS)
def test_fused_kernels_compute_what_the_kernel_does(
    seed: int, drawn: str, monkeypatch: pytest.MonkeyPatch, interpreted: type[None]
) -> None:
    graph, sizes, arrays = GRAPHS[drawn](seed, "float32" if seed % 2 else "float64")
    dtype = str(arrays["X"].dtype)
    expected = gi.compile(graph, sizes, backend="reference")(arrays)
    _check(gi.compile(graph, sizes, kernels="numba", threads=1)(arrays), expected, dtype, f"seed {seed}")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> type[None]:
    """Kernels of any size, run as Python."""
    from tests.backends.numpy.test_fast import _interpreted

    monkeypatch.setattr(kernels, "LEAST", 0)
    monkeypatch.setattr(kernels, "build", _interpreted)
    monkeypatch.setattr(kernels, "require_numba", lambda: None)
    monkeypatch.setattr(build, "cache_folder", lambda: None)
    return type(None)
