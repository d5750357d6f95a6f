"""Memory: a thread's scratch, and which addresses an array touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.engine import Engine, rounded

_CHUNK = 4 << 20
#: Addresses: the first, and the one after the last.
Span: TypeAlias = tuple[int, int]


def addresses(engine: Engine, array: Array) -> Span | None:
    """The first address that `array` touches and the one after the last; None of an empty one."""
    low = high = engine.address(array)
    for length, stride in zip(array.shape, array.strides, strict=True):
        if length == 0:
            return None
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


class Scratch:
    """A thread's scratch memory: what a tile needs while it is worked on. Grows by chunks, is never given back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.chunks: list[Array] = []
        self._used: list[list[tuple[int, int]]] = []
        #: What has been handed out: the next tile asks for the same buffers in the same places.
        self._made: dict[tuple[Any, ...], Array] = {}

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> tuple[Array, tuple[int, int, int]]:
        """A buffer, and its place, to be given to `free`."""
        kind = np.dtype(dtype)
        size = kind.itemsize
        for length in shape:
            size *= length
        size = rounded(max(size, 1), self._engine.alignment)
        for index in range(len(self.chunks)):
            offset = self._fit(index, size)
            if offset is not None:
                return self._take(index, offset, size, tuple(shape), kind)
        self.chunks.append(self._engine.allocate(max(size, _CHUNK)))
        self._used.append([])
        return self._take(len(self.chunks) - 1, 0, size, tuple(shape), kind)

    def _take(
        self, index: int, offset: int, size: int, shape: tuple[int, ...], kind: np.dtype[Any]
    ) -> tuple[Array, tuple[int, int, int]]:
        self._used[index].append((offset, size))
        self._used[index].sort()
        key = index, offset, shape, kind
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._engine.view(self.chunks[index], shape, kind, offset)
        return made, (index, offset, size)

    def _fit(self, index: int, size: int) -> int | None:
        offset = 0
        for start, length in self._used[index]:
            if offset + size <= start:
                return offset
            offset = start + length
        return offset if offset + size <= self.chunks[index].size else None

    def free(self, place: tuple[int, int, int]) -> None:
        """Gives a buffer back."""
        index, offset, size = place
        self._used[index].remove((offset, size))

    def clear(self) -> None:
        """Gives all buffers back."""
        for used in self._used:
            used.clear()
