"""The CuPy engine: arrays in a GPU's memory, and the rules that write what runs there.

Text has no place on a GPU: arrays of strings stay NumPy's, and only reference kernels are given them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array, Function, Rules
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.device import device_properties, require_device
from graphir.backends.effects import writes

rules = Rules()

# A whole task keeps a GPU busy. Attention alone is cut, where no kernel carries it out without its scores
# [B, N_H, S, S]: so that no more of them is there at a time than this, and so that the keys behind the last query of a
# tile are left out.
_TILING = Tiling(bytes=1 << 28, casts=1 << 28, small=0, causal=(64, 128), whole=True)


class CupyEngine:
    """As `Engine`, of CuPy arrays on the current device.

    With `tf32`, products of float32 are formed of factors rounded to 10 bits after the point.
    Errors: as `require_device`.
    """

    name = "cupy"
    rules = rules
    tiling = _TILING
    #: Of what a multiprocessor reads at once, so that rows which begin there are read in as few pieces as can be.
    alignment = 256
    checks_ids = False
    follows_sights = False

    def __init__(self, tf32: bool = False) -> None:
        self.xp: Any = require_device()
        self.tf32 = tf32
        #: Whether its tensor cores take bfloat16, and tiles of 16 × 8 × 16: since Ampere.
        self.has_ampere_tensor_cores = device_properties().capability >= (8, 0)
        self.add: Function = self.xp.add
        self.maximum: Function = self.xp.maximum

    @writes("target")
    def copy(self, target: Array, source: Any) -> None:
        """As `Engine.copy`; from NumPy's memory only where something is text, or the source a number."""
        if isinstance(target, self.xp.ndarray):
            self.xp.copyto(target, source)
        else:
            np.copyto(target, source)

    def allocate(self, size: int) -> Array:
        return self.empty((size,), np.uint8)

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        kind = np.dtype(dtype)
        made: Array = (np if kind.hasobject else self.xp).empty(tuple(shape), kind)
        return made

    def view(
        self,
        buffer: Any,
        shape: Sequence[int],
        dtype: DTypeLike,
        offset: int = 0,
        strides: Sequence[int] | None = None,
    ) -> Array:
        kind, steps = np.dtype(dtype), None if strides is None else tuple(strides)
        made: Array = self.xp.ndarray(tuple(shape), kind, buffer.data + offset, steps)
        return made

    def constant(self, array: Array) -> Array:
        made: Array = self.xp.asarray(array)
        return made

    def address(self, array: Any) -> int:
        if isinstance(array, self.xp.ndarray):
            return int(array.data.ptr)
        return int(array.__array_interface__["data"][0])
