"""Floats that NumPy does not have by itself: bfloat16, by the package ml_dtypes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphir.errors import MissingDependencyError
from graphir.extras import install
from graphir.ir.value import Value


def require_dtypes(values: Iterable[Value]) -> None:
    """Makes the dtypes of `values` known to NumPy; MissingDependencyError, naming a value, if one cannot be."""
    narrow = next((value for value in values if value.dtype == "bfloat16"), None)
    if narrow is not None:
        require_bfloat16(f"{narrow.name} is {narrow.type}")


def require_bfloat16(said: str) -> None:
    """Makes bfloat16 known to NumPy; MissingDependencyError, beginning with `said`, where it cannot be."""
    try:
        import ml_dtypes  # noqa: F401  registers its dtypes with NumPy
    except ImportError:
        raise MissingDependencyError(
            f"{said}, and NumPy has no bfloat16 by itself: {install('bfloat16')}, or run in float16 or float32"
        ) from None


def is_float(dtype: Any) -> bool:
    """Whether a NumPy dtype is one of floats; NumPy files bfloat16 under raw bytes."""
    return bool(dtype.kind == "f" or dtype.name == "bfloat16")
