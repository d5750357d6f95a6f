"""Buffers of results, which belong to whoever holds them: one that a caller still has is not written to again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array


class ResultBuffers:
    """The buffers of one result. `bind` makes the program write into another."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, bind: Callable[[Array], None]) -> None:
        self._shape, self._dtype, self._bind = shape, dtype, bind
        self._arrays: list[Array] = []
        self._current = -1
        #: How many references there are to the current buffer while the program alone holds it.
        self._holders = 0

    def renew(self) -> None:
        """Before a run: the program writes into a buffer that no caller holds."""
        if self._arrays and sys.getrefcount(self._arrays[self._current]) <= self._holders:
            return
        self._bind_to(next((i for i in range(len(self._arrays)) if self._is_free(i)), len(self._arrays)))

    def _is_free(self, index: int) -> bool:
        # Held by the list, and by the call that counts.
        return index != self._current and sys.getrefcount(self._arrays[index]) <= 2

    def _bind_to(self, index: int) -> None:
        if index == len(self._arrays):
            self._arrays.append(np.empty(self._shape, self._dtype))
        self._current = index
        self._bind(self._arrays[index])
        self._holders = sys.getrefcount(self._arrays[index])
