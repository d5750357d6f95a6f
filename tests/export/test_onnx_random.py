"""Kernels and graphs that nobody wrote: what is exported computes what they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import graphir as gi
from graphir.errors import ExportError
from graphir.ir import operator as language
from tests.support.random_graphs import Program, programs
from tests.support.random_kernels import draw_arrays, draw_operator

pytestmark = pytest.mark.slow
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from graphir.export.onnx import to_onnx  # noqa: E402
from tests.support import onnx_runs  # noqa: E402


@pytest.fixture
def own_registry() -> Iterator[None]:
    """What is drawn is gone after the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_REGISTRY", dict(language._REGISTRY))
        yield


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("seed", range(60))
def test_a_drawn_kernel_is_exported_by_its_formula(seed: int) -> None:
    dtype = "float32" if seed % 2 else "float64"
    B, S, D = gi.dims("B S D")
    block = gi.Builder("drawn", dtype=dtype)
    operands = [block.input(name, dims) for name, dims in _operands(B, S, D).items()]
    results = draw_operator(seed).all(*operands, names=["P", "Q", "s"])
    graph = block.build(*results)
    rng = np.random.default_rng(seed)
    width = int(rng.choice([1, 2, 7]))
    model = to_onnx(graph, {"D": width})
    onnx_runs.check(model)
    for size in ((1, 1), (2, 5)):
        arrays: dict[str, Any] = draw_arrays(seed, size, width, dtype)
        wanted = gi.compile(graph, {"B": size[0], "S": size[1], "D": width}, backend="reference")(arrays)
        for engine in (onnx_runs.run, onnx_runs.evaluate):
            for name, found in engine(model, arrays).items():
                onnx_runs.assert_close(found, wanted[name], {"float32": 1e-4, "float64": 1e-12}[dtype], name)


def _operands(B: gi.Dim, S: gi.Dim, D: gi.Dim) -> dict[str, tuple[gi.Dim, ...]]:
    return {"X": (B, S, D), "Y": (B, S, D), "w": (D,), "r": (B, S)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs(random=False))
def test_a_drawn_graph_computes_the_same(program: Program) -> None:
    shown = {str(each) for value in program.graph.inputs for each in value.shape} & program.sizes.keys()
    arrays = program.arrays()
    wanted = gi.compile(program.graph, program.sizes, backend="reference")(arrays)
    for open in ((), tuple(shown)):
        sizes = {name: size for name, size in program.sizes.items() if name not in open}
        try:
            model = to_onnx(program.graph, sizes, open=open)
        except ExportError as error:
            told = str(error)
        else:
            told = ""
        if told:  # a mask of scores whose width it is
            assert re.search("computes with the size of .*, which stays open", told)
            continue
        onnx_runs.check(model)
        for name, found in onnx_runs.evaluate(model, arrays).items():
            onnx_runs.assert_close(found, wanted[name], 1e-9, name)
