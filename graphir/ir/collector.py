"""Python's collector of cyclic garbage, and when it is better left off."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Hold:
    """Keeps the collector off, if it was on, until this ends, or, where an interrupt came first, is forgotten."""

    _lock: ClassVar = threading.RLock()
    _holding: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        with self._lock:
            if self._holding or gc.isenabled():
                self._holding.add(id(self))
                gc.disable()

    def end(self) -> None:
        with self._lock:
            if id(self) in self._holding:
                if len(self._holding) == 1:
                    gc.enable()
                self._holding.discard(id(self))

    def __del__(self) -> None:
        self.end()

    @classmethod
    def end_all(cls) -> None:
        """In a forked child, where nobody else is at work."""
        cls._lock = threading.RLock()
        if cls._holding:
            cls._holding.clear()
            gc.enable()


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_Hold.end_all)


def without_collector(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, run with the collector off; for passes, and for compiling.

    A pass makes some ten objects a node, all of which live on in the graph that it returns, and next to no garbage in
    cycles. The collector would visit them again and again as their number grows, and find nothing. It is off for the
    whole process meanwhile, on again when the last such work has ended, in whatever threads, whatever happens, and
    left alone where it was off before.
    """

    @wraps(work)
    def uncollected(*args: P.args, **kwargs: P.kwargs) -> T:
        hold = _Hold()
        try:
            return work(*args, **kwargs)
        finally:
            hold.end()

    return uncollected
