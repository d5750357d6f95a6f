"""Buffers of results, which belong to whoever holds them: one that a caller still has is not written to again.

Who gets a result gets a *loan*: an array of its own over the buffer. All arrays that are made of it, views of views
included, hold the loan, and so a buffer is free as soon as its loan is gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass
class _Buffer:
    """A buffer, and its last loan: one that is gone is None."""

    array: Array
    loan: Callable[[], _Loan | None] = lambda: None


class ResultBuffers:
    """The buffers of one result. `bind` makes the program write into another."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, bind: Callable[[Array], None]) -> None:
        self._shape, self._dtype, self._bind = shape, dtype, bind
        self._buffers: list[_Buffer] = []
        #: What the program writes into; None, too, if it was left between two.
        self._current: _Buffer | None = None

    def renew(self) -> None:
        """Before a run: the program writes into a buffer that no caller holds."""
        found = self._current
        if found is None or found.loan() is not None:
            # Broken off, by an interrupt, this leaves no buffer, so that the next run begins anew.
            self._current = None
            found = next((each for each in self._buffers if each.loan() is None), None)
            found = found or _Buffer(np.empty(self._shape, self._dtype))
            self._bind(found.array)
            self._current = found
        # Of those that nobody holds any more one is enough.
        self._buffers = [found, *(each for each in self._buffers if each.loan() is not None)]

    def lend(self) -> Array:
        """The result of the last run, for the caller to keep."""
        assert self._current is not None
        buffer = self._current.array
        if buffer.dtype == object:
            return buffer.copy()
        loan = _Loan(buffer)
        self._current.loan = weakref.ref(loan)
        array: Array = np.asarray(loan).view(buffer.dtype)
        return array
