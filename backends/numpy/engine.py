"""The NumPy engine: arrays in the machine's memory, and the rules that write NumPy calls."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array, Function, Rules
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.numpy.calls import maximum
from graphir.backends.numpy.formulas import rule_of
from graphir.errors import SizeError

rules = Rules(general=rule_of)

# Most values of a tile take over another's memory, so that about a quarter is at work at a time; smaller tiles lose
# more to calls than they gain by the cache.
_TILING = Tiling(bytes=1 << 22, small=1 << 16, causal=(64, 128))
#: From so many bytes on a stand-in is mapped by itself, as C's malloc begins by doing: there may be only so many.
_MAPPED = 1 << 17


def reserve(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """An array that only its addresses are wanted of: a large one takes no memory as long as nobody writes into it."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < _MAPPED:
        return ENGINE.empty(shape, kind)
    try:
        place = mmap.mmap(-1, size)
    except OSError:  # the system has no more of such places
        return ENGINE.empty(shape, kind)
    return np.frombuffer(place, np.uint8).view(kind).reshape(tuple(shape))


class NumpyEngine:
    """As `Engine`, of NumPy arrays."""

    name = "numpy"
    xp: Any = np
    rules = rules
    tiling = _TILING
    #: A cache line, as vector instructions like it.
    alignment = 64
    checks_ids = True
    follows_sights = True
    add: Function = np.add
    maximum: Function = staticmethod(maximum)
    copy: Function = staticmethod(np.copyto)

    def allocate(self, size: int) -> Array:
        raw = self.empty((size + self.alignment,), np.uint8)
        start = -raw.ctypes.data % self.alignment
        return raw[start : start + size]

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        try:
            return np.empty(tuple(shape), dtype)
        except MemoryError as error:
            raise SizeError(f"the system has no memory for what was planned: {error}") from None

    def view(
        self,
        buffer: Array,
        shape: Sequence[int],
        dtype: DTypeLike,
        offset: int = 0,
        strides: Sequence[int] | None = None,
    ) -> Array:
        if not buffer.flags.c_contiguous:
            # NumPy takes whole memory only: that of which the buffer is a view.
            assert buffer.base is not None
            offset += self.address(buffer) - self.address(buffer.base)
            buffer = buffer.base
        return np.ndarray(tuple(shape), dtype, buffer, offset, None if strides is None else tuple(strides))

    def constant(self, array: Array) -> Array:
        array.flags.writeable = False
        return array

    def address(self, array: Array) -> int:
        return int(array.__array_interface__["data"][0])


ENGINE = NumpyEngine()
