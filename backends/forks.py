"""What a forked child has to have anew: it inherits locks that nobody there will release, and none of the threads."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewed(Protocol):
    """What is not to be used in a forked child as it was in the parent."""

    def renew(self) -> None:
        """Called in the child before anything else is done there, by its only thread."""


_renewed: WeakSet[Renewed] = WeakSet()


def renew_in_children(each: Renewed) -> None:
    """Has `each`, as long as it lives, renewed in every child that this process forks."""
    _renewed.add(each)


def _renew() -> None:
    for each in tuple(_renewed):
        each.renew()


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_renew)
