"""The package `onnx`, which is imported when something is exported, and not before."""

from __future__ import annotations

from typing import Any

from graphir.errors import MissingDependencyError
from graphir.extras import install


def onnx() -> Any:
    """The package; MissingDependencyError where it is not installed."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise MissingDependencyError(f"to export to ONNX needs the package onnx: {install('onnx')}") from None
    return onnx


def element_type(dtype: str) -> int:
    """ONNX's number of one of graphir's dtypes."""
    names = {"float32": "FLOAT", "float64": "DOUBLE"}
    number: int = getattr(onnx().TensorProto, names.get(dtype, dtype.upper()))
    return number
