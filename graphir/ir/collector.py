"""Python's collector of cyclic garbage, and when it is better left off."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def without_collector(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, run with the collector off; for passes, and for compiling.

    A pass makes some ten objects a node, all of which live on in the graph that it returns, and next to no garbage in
    cycles. The collector would visit them again and again as their number grows, and find nothing. It is off for the
    whole process meanwhile, on again afterwards, whatever happens, and left alone where it was off before: also by a
    pass that runs inside another, or in another thread.
    """

    @wraps(work)
    def uncollected(*args: P.args, **kwargs: P.kwargs) -> T:
        if not gc.isenabled():
            return work(*args, **kwargs)
        gc.disable()
        try:
            return work(*args, **kwargs)
        finally:
            gc.enable()

    return uncollected
