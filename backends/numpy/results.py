"""Buffers of results, which belong to whoever holds them: one that a caller still has is not written to again.

Who gets a result gets a *loan*: an array of its own over the buffer. All arrays that are made of it, views of views
included, hold the loan, and so a buffer is free as soon as its loan is gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array


class _Loan:
    """What an array over a buffer, and every array made of it, holds for as long as there is one of them."""

    __slots__ = ("__array_interface__", "__weakref__", "_buffer")

    def __init__(self, buffer: Array) -> None:
        self._buffer = buffer
        self.__array_interface__ = {
            "data": (int(buffer.__array_interface__["data"][0]), False),
            "shape": buffer.shape,
            # Bytes to NumPy, which takes no other package's dtypes from an interface.
            "typestr": f"|V{buffer.itemsize}",
            "version": 3,
        }


class ResultBuffers:
    """The buffers of one result. `bind` makes the program write into another."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, bind: Callable[[Array], None]) -> None:
        self._shape, self._dtype, self._bind = shape, dtype, bind
        self._arrays: list[Array] = []
        #: The last loan of each buffer; one that is gone is None.
        self._loans: list[Callable[[], _Loan | None]] = []
        self._current = -1

    def renew(self) -> None:
        """Before a run: the program writes into a buffer that no caller holds."""
        free = [i for i, loan in enumerate(self._loans) if loan() is None]
        if self._current in free:
            return
        self._current = free[0] if free else len(self._arrays)
        if not free:
            self._arrays.append(np.empty(self._shape, self._dtype))
            self._loans.append(lambda: None)
        self._bind(self._arrays[self._current])

    def lend(self) -> Array:
        """The result of the last run, for the caller to keep."""
        buffer = self._arrays[self._current]
        if buffer.dtype == object:
            return buffer.copy()
        loan = _Loan(buffer)
        self._loans[self._current] = weakref.ref(loan)
        array: Array = np.asarray(loan).view(buffer.dtype)
        return array
