"""Poison: memory that an engine has allocated and nobody has written is full of NaN and of absurd integers.

    with poisoned():
        run = gi.compile(graph, sizes)
        run(arrays)          # whatever this reads unwritten shows in the results

Before each run the arena, scratch, kept buffers and the results' buffers are filled anew, so that what is left over
from an earlier run is no better than what was never there. A result that a caller holds is the caller's, and is left
alone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from graphir.backends.compiled import buffers
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.numpy import compiled, results
from graphir.backends.numpy.engine import NumpyEngine
from graphir.backends.numpy.results import ResultBuffers

#: Two bytes that, repeated, are NaN in each float dtype and some 10¹⁸ in int64: no index, no count, no label.
PATTERN = 0x7FFF
#: Scratch grows by so many bytes where it is to be filled before each run; by megabytes, filling would be all the time.
CHUNK = 1 << 14


def fill(array: NDArray[Any]) -> None:
    """Writes the pattern over all of a C-contiguous array; one of Python's objects is left alone."""
    if array.dtype == object or array.size == 0:
        return
    raw = array.reshape(-1).view(np.uint8)
    pairs = raw[: raw.size // 2 * 2]
    if pairs.ctypes.data % 2 == 0:
        pairs.view(np.uint16)[...] = PATTERN
        raw[pairs.size :] = PATTERN & 0xFF
    else:
        raw[...] = PATTERN & 0xFF


class Poison(threading.local):
    """What an engine has allocated since it was made, as far as it is still there: in each thread, what that asked for.

    So ranks that run side by side, each in a thread of its own, do not poison each other's memory at work.
    """

    def __init__(self) -> None:
        self._held: list[weakref.ref[NDArray[Any]]] = []

    def add(self, array: NDArray[Any]) -> NDArray[Any]:
        """Fills what was allocated just now, and notes it."""
        owner = array if array.base is None else array.base
        assert isinstance(owner, np.ndarray)
        fill(owner)
        self._held.append(weakref.ref(owner))
        return array

    def refill(self) -> None:
        """Fills all that is still there: nothing in it may be needed any more."""
        alive = []
        for each in self._held:
            array = each()
            if array is not None:
                fill(array)
                alive.append(each)
        self._held = alive


class _Numpy:
    """NumPy as a module sees it, but for `empty`, which is poisoned."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(shape: Sequence[int], dtype: Any = float) -> NDArray[Any]:
        array = np.empty(shape, dtype)
        fill(array)
        return array


@contextmanager
def poisoned() -> Iterator[Poison]:
    """While it lasts, all that the NumPy engine allocates is poisoned, at once and again before each run."""
    poison = Poison()
    allocate, empty, renew, run = NumpyEngine.allocate, NumpyEngine.empty, ResultBuffers.renew, CompiledExecutable._run

    def poisoned_run(self: CompiledExecutable, *arguments: Any, **options: Any) -> Any:
        poison.refill()
        return run(self, *arguments, **options)

    def poisoned_renew(self: ResultBuffers) -> None:
        renew(self)
        assert self._current is not None
        fill(self._current.array)

    modules: tuple[ModuleType, ...] = (compiled, results)
    with ExitStack() as stack:
        stack.enter_context(patch.object(NumpyEngine, "allocate", lambda self, size: poison.add(allocate(self, size))))
        stack.enter_context(
            patch.object(NumpyEngine, "empty", lambda self, shape, dtype: poison.add(empty(self, shape, dtype)))
        )
        stack.enter_context(patch.object(CompiledExecutable, "_run", poisoned_run))
        stack.enter_context(patch.object(ResultBuffers, "renew", poisoned_renew))
        stack.enter_context(patch.object(buffers, "_CHUNK", CHUNK))
        for module in modules:
            stack.enter_context(patch.object(module, "np", _Numpy()))
        yield poison
