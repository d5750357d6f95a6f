"""Declarations held to deeds: what a recorded call says that it writes, against what it does to all memory.

    hold_to_deeds(calls)

carries the calls out, in order, each several times over: once as it is, with every byte of memory that it does not
declare as written compared before and after; and with all that it does not declare as read overwritten, which must not
change what it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends.effects import effects_of, flat
from graphir.backends.proof.lays import Lay

Bytes = NDArray[np.uint8]
#: Bytes that make NaN of floats, and absurd numbers of integers; two, as what one hides the other shows.
POISONS = (0xFF, 0xA5)


def hold_to_deeds(calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> int:
    """Carries out `calls`, and returns how many there were; AssertionError where one does not do as it declares."""
    memory = _Memory(array for _, arguments in calls for array in _arrays(arguments))
    for function, arguments in calls:
        effects = effects_of(function, arguments)
        assert effects is not None, f"{function} does not declare what it writes"
        reads, writes = memory.marked(_arrays(effects.reads)), memory.marked(_arrays(effects.writes))
        before = memory.taken()
        function(*arguments)
        after = memory.taken()
        for old, new, written in zip(before, after, writes, strict=True):
            assert not (old != new)[~written].any(), f"{function} writes to what it does not declare as written"
        for poison in POISONS:
            memory.put([np.where(read, old, np.uint8(poison)) for old, read in zip(before, reads, strict=True)])
            function(*arguments)
            for old, new, made, written, read in zip(before, after, memory.taken(), writes, reads, strict=True):
                # What is written only at times keeps, where it is not, what was there.
                left = (old == new) & (made == np.where(read, old, np.uint8(poison)))
                assert ((made == new) | left)[written].all(), f"{function} reads what it does not declare as read"
        memory.put(after)
    return len(calls)


class _Memory:
    """The part of each buffer, from the first byte to the last, that some arrays are views of."""

    def __init__(self, arrays: Iterable[NDArray[Any]]) -> None:
        self._windows: dict[int, tuple[int, Bytes]] = {}
        reached: dict[int, tuple[NDArray[Any], int, int]] = {}
        for array in arrays:
            root = _root(array)
            # A constant nobody may write to, so that it need not be looked at.
            if root.flags.writeable and root.flags.c_contiguous and not root.dtype.hasobject and array.size:
                low, high = Lay.of(array).low, Lay.of(array).high
                _, first, last = reached.get(_address(root), (root, low, high))
                reached[_address(root)] = root, min(first, low), max(last, high)
        for start, (root, low, high) in reached.items():
            self._windows[start] = low, np.ndarray((high - low,), np.uint8, root, low - start)

    def taken(self) -> list[Bytes]:
        """All bytes, as they are now."""
        return [window.copy() for _, window in self._windows.values()]

    def put(self, content: Sequence[Bytes]) -> None:
        """Other bytes in place of those."""
        for (_, window), each in zip(self._windows.values(), content, strict=True):
            window[...] = each

    def marked(self, arrays: Iterable[NDArray[Any]]) -> list[NDArray[np.bool_]]:
        """Of every window the bytes that belong to some arrays."""
        marks = {start: np.zeros(window.size, bool) for start, (_, window) in self._windows.items()}
        for array in arrays:
            start = _address(_root(array))
            if start in marks and array.size:
                shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
                where = np.ndarray(shape, bool, marks[start], _address(array) - self._windows[start][0], strides)
                where[...] = True
        return list(marks.values())


def _arrays(arguments: Iterable[Any]) -> list[NDArray[Any]]:
    return [each for each in flat(arguments) if isinstance(each, np.ndarray)]


def _root(array: NDArray[Any]) -> NDArray[Any]:
    """The array whose memory it is."""
    found, base = array, array.base
    while base is not None:
        found = base if isinstance(base, np.ndarray) else found
        base = getattr(base, "base", None)
    return found


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
