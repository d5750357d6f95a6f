"""JAX for tests: skipped where it is not installed, and with as many virtual devices as any of them asks for."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

jax = pytest.importorskip("jax")

DEVICES = 8
with contextlib.suppress(RuntimeError):  # something has used JAX before
    jax.config.update("jax_num_cpu_devices", DEVICES)


def distance(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest magnitude that is expected; infinite where kinds differ."""
    left, right = np.asarray(found), np.asarray(expected)
    if left.dtype != right.dtype or left.shape != right.shape:
        return float("inf")
    if right.dtype.kind in "iub":
        return 0.0 if np.array_equal(left, right) else float("inf")
    wide, exact = left.astype(np.float64), right.astype(np.float64)
    same = (wide == exact) | (np.isnan(wide) & np.isnan(exact))
    gap: NDArray[Any] = np.where(same, 0.0, np.abs(wide - exact))
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)) / (largest or 1.0)
