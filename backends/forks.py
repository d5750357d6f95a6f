"""What a forked child has to have anew: it inherits locks that nobody there will release, and none of the threads."""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Renewed(Protocol):
    """What is not to be used in a forked child as it was in the parent."""

    def renew(self) -> None:
        """Called in the child before anything else is done there, by its only thread."""


class Guard:
    """A lock, `lock`, that a thread may take again while it has it, and that nobody has in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        renew_in_children(self)

    def renew(self) -> None:
        """As `Renewed.renew`."""
        self.lock = threading.RLock()


_renewed: WeakSet[Renewed] = WeakSet()


def renew_in_children(each: Renewed) -> None:
    """Has `each`, as long as it lives, renewed in every child that this process forks."""
    _renewed.add(each)


def _renew() -> None:
    for each in tuple(_renewed):
        each.renew()


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_renew)
