"""Exported models, checked by the package onnx and run by others' programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
reference = pytest.importorskip("onnx.reference")

Arrays = Mapping[str, Any]


class Erf(reference.op_run.OpRun):  # type: ignore[misc, name-defined]
    """As onnx's own, which has the digits of float32 only."""

    def _run(self, x: Any) -> tuple[Any]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def check(model: Any) -> None:
    """The checker's verdict, every type and shape inferred again; an error if it is not good."""
    onnx.checker.check_model(model, full_check=True)


def run(model: Any, arrays: Arrays) -> dict[str, Any]:
    """What onnxruntime computes, of those of `arrays` that are the model's inputs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return _named(model, session.run(None, _fed(model, arrays)))


def evaluate(model: Any, arrays: Arrays) -> dict[str, Any]:
    """What onnx's reference evaluator computes, node by node."""
    return _named(model, reference.ReferenceEvaluator(model, new_ops=[Erf]).run(None, _fed(model, arrays)))


def can_run(model: Any) -> bool:
    """Whether onnxruntime has a kernel for each operator of the model, for its dtypes."""
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return False
    return True


def assert_close(found: Any, wanted: Any, tolerance: float, what: str = "") -> None:
    """The same shape and dtype, the same numbers that are not finite; the others relative to the largest of them."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), what
    if wanted.dtype.kind in "bi":
        np.testing.assert_array_equal(found, wanted, err_msg=what)
        return
    found, wanted = found.astype("float64"), wanted.astype("float64")
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite], err_msg=what)
    largest = np.abs(wanted[finite]).max(initial=0.0)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=tolerance * largest, err_msg=what)


def _fed(model: Any, arrays: Arrays) -> dict[str, Any]:
    return {each.name: np.asarray(arrays[each.name]) for each in model.graph.input}


def _named(model: Any, results: Any) -> dict[str, Any]:
    return dict(zip((each.name for each in model.graph.output), results, strict=True))
