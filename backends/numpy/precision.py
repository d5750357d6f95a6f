"""Products of 16-bit operands, which BLAS has in float32 and float64 alone.

A 16-bit operand is copied into float32 first, tile by tile, and what is added up in float32 rounded on its way out:
slow, but each rounding is where the graph has it.
"""

from __future__ import annotations

import numpy as np

from graphir.backends.compiled.emission import Array, Calls


def widened(call: Calls, X: Array) -> Array:
    """X where BLAS can read it: itself, or recorded as a float32 copy of what has 16 bits an element."""
    if X.dtype.itemsize >= 4:
        return X
    wide = call.scratch(X.shape, np.float32)
    call(np.copyto, wide, X)
    return wide


def summable(call: Calls, Y: Array) -> Array:
    """Where BLAS can add up Y: itself, or a float32 buffer to be copied from."""
    return Y if Y.dtype.itemsize >= 4 else call.scratch(Y.shape, np.float32)
