"""Products of 16-bit operands, which BLAS has in float32 and float64 alone.

A 16-bit operand is copied into float32 first, tile by tile, and what is added up in float32 rounded on its way out:
slow, but each rounding is where the graph has it.
"""

from __future__ import annotations

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.effects import writes


def widened(call: Calls, X: Array) -> Array:
    """X where BLAS can read it: itself, or recorded as a float32 copy of what has 16 bits an element."""
    if X.dtype.itemsize >= 4:
        return X
    wide = call.scratch(X.shape, np.float32)
    call(widen, X, wide)
    return wide


def summable(call: Calls, Y: Array) -> Array:
    """Where BLAS can add up Y: itself, or a float32 buffer to be copied from."""
    return Y if Y.dtype.itemsize >= 4 else call.scratch(Y.shape, np.float32)


@writes("out")
def widen(X: Array, out: Array) -> None:
    """out = X, in more bits: bfloat16 is the upper half of a float32, which NumPy would convert element by element."""
    if X.dtype.name != "bfloat16" or out.dtype != np.float32:
        np.copyto(out, X)
        return
    bits = out.view(np.uint32)
    np.copyto(bits, X.view(np.uint16))
    np.left_shift(bits, 16, bits)
