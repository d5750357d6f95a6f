"""Every CUDA text that there is: the kernels of whole training steps, and those written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import graphir as gi
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.cupy.kernels import CudaKernels
from graphir.ir.graph import Graph
from graphir.passes import Optimizer, autodiff, mixed_precision, optimize
from graphir.testing import cases
from tests.cuda.harness import HostArray, HostEngine, HostExecutable
from tests.cuda.rule_sources import rule_sources
from tests.support.formulas import FUSED

_SIZES = {"B": 2, "S": 512, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50257}
_ODD = {"B": 2, "S": 31, "D": 33, "N_H": 3, "D_ff": 65, "V": 97}
_WIDE = {"B": 2, "S": 16, "D": 9000, "N_H": 2, "D_ff": 128, "V": 12000}


class _Noted:
    """A module that is noted, and never compiled."""

    def __init__(self, texts: list[str], code: str) -> None:
        texts.append(code)

    def get_function(self, name: str) -> Any:
        return lambda *arguments: None


class _Noting:
    """NumPy, and a RawModule that notes what it is given."""

    def __init__(self, texts: list[str]) -> None:
        self.RawModule = lambda *, code, options=(): _Noted(texts, code)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def broadcast_to(array: Any, shape: Sequence[int]) -> Any:
        return np.broadcast_to(array, shape, subok=True)


class _NotingEngine(HostEngine):
    """Writes calls that nobody runs, into memory that nobody touches."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.xp = _Noting(self.texts)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        return np.empty(tuple(shape), dtype).view(HostArray)


def texts_of(graph: Graph, sizes: dict[str, int]) -> list[str]:
    """The texts of the fused kernels that `graph` becomes."""
    engine, planned = _NotingEngine(), gi.compile(graph, sizes)
    assert isinstance(planned, CompiledExecutable)
    written = HostExecutable(planned.plan, planned.optimised, engine, kernels=CudaKernels(engine))
    assert written.programs
    return engine.texts


def step(precision: str = "float32", **options: Any) -> Graph:
    """A training step of the documents' Transformer with dropout and AdamW."""
    model = mixed_precision(gi.models.transformer(1, dropout=0.1, decode=None, **options), precision)
    return optimize(autodiff(model), Optimizer("adamw", learning_rate=1e-3, clip=1.0))


def _generated() -> Iterator[tuple[str, str]]:
    graphs = {
        "step float32": (step(), _SIZES),
        "step float32, odd sizes": (step(activation="gelu_tanh", mask="padding"), _ODD),
        "step float32, long rows": (step(activation="relu"), _WIDE),
        "step float16": (step("float16"), _SIZES),
        "step bfloat16": (step("bfloat16"), _SIZES),
        "step float64": (step(dtype="float64"), _ODD),
    }
    # Every operator by itself; float16, whose kernels differ in how they load and store, is in the steps.
    for operator in FUSED:
        for i, case in enumerate(cases(operator, "bfloat16", count=1)):
            graphs[f"{operator.key} bfloat16, case {i}"] = case.graph, dict(case.sizes)
    for name, (graph, sizes) in graphs.items():
        for i, text in enumerate(texts_of(graph, sizes)):
            yield f"{name}, kernel {i}", text


def all_sources() -> dict[str, str]:
    """The text of each module that is ever compiled, by what it is; texts that are the same are there once."""
    found: dict[str, str] = {}
    for name, text in (*_generated(), *rule_sources()):
        found.setdefault(text, name)
    return {name: text for text, name in found.items()}
