"""Python's collector of cyclic garbage, and when it is better left off."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Hold:
    """Who wants the collector off at present, if it was on before.

    No lock: whatever comes between two lines, it is on in the end; at worst somebody goes on working with it on.
    """

    def __init__(self) -> None:
        self.holders: set[object] = set()

    def join(self, holder: object) -> None:
        if self.holders or gc.isenabled():
            self.holders.add(holder)
            gc.disable()

    def leave(self, holder: object) -> None:
        if holder in self.holders:
            self.holders.discard(holder)
            if not self.holders:
                gc.enable()

    def let_go(self) -> None:
        """In a forked child, where nobody else is at work."""
        if self.holders:
            self.holders.clear()
            gc.enable()


_hold = _Hold()
if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_hold.let_go)


def without_collector(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, run with the collector off; for passes, and for compiling.

    A pass makes some ten objects a node, all of which live on in the graph that it returns, and next to no garbage in
    cycles. The collector would visit them again and again as their number grows, and find nothing. It is off for the
    whole process meanwhile, on again when the last such work has ended, in whatever threads, whatever happens, and
    left alone where it was off before.
    """

    @wraps(work)
    def uncollected(*args: P.args, **kwargs: P.kwargs) -> T:
        holder = object()
        try:
            _hold.join(holder)
            return work(*args, **kwargs)
        finally:
            _hold.leave(holder)

    return uncollected
