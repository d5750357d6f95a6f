"""The one birthplace of collectives: how a value gets from the layout it has to the layout that is wanted."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from graphir.errors import LayoutError
from graphir.ir.layout import Layout
from graphir.ir.operator import Attributes, Operator
from graphir.operators.collectives import all_gather, all_reduce, all_to_all, local_slice, reduce_scatter


class Hop(NamedTuple):
    """One collective on the way.

    settles  the axes over which it forms what is pending: it then belongs to who makes the value, else to who reads it
    sends    whether anything goes from rank to rank; a slice is each rank's own affair
    """

    operator: Operator
    attributes: Attributes
    settles: tuple[str, ...]
    sends: bool


@lru_cache(maxsize=4096)
def route(have: Layout, want: Layout) -> tuple[Hop, ...]:
    """The collectives that turn `have` into `want`; none if they are equal.

    What is pending and cannot become a split is reduced first, while the blocks are small: one AR a reduction.
    Then each dim keeps the axes that both layouts begin with; the rest are gathered, the minor axis first, or
    exchanged (A2A) where another dim wants them next. Then missing axes are appended: by RS if the value is
    pending on them, by a local slice if it is not.
    LayoutError if `want` is pending where `have` is not: no collective makes terms of a sum.
    """
    if len(have.splits) != len(want.splits):
        raise LayoutError(f"{have} and {want} are for different ranks")
    pending, wanted = dict(have.pending), dict(want.pending)
    for axis, kind in wanted.items():
        if pending.get(axis) != kind:
            raise LayoutError(f"a value that lies as {have} cannot become a pending {kind} over {axis}")
    scattered = {axis for axis in want.split_axes if pending.get(axis) == "sum"}
    hops: list[Hop] = []
    for kind in dict.fromkeys(pending.values()):
        axes = tuple(a for a, k in pending.items() if k == kind and a not in wanted and a not in scattered)
        if axes:
            hops.append(_hop(all_reduce, settles=axes, axes=axes, reduce=kind))
    splits = [list(axes) for axes in have.splits]
    for dim, held in enumerate(splits):
        while held != list(want.splits[dim][: len(held)]):
            axis = held.pop()
            target = _next_home(axis, dim, splits, want)
            if target is None:
                hops.append(_hop(all_gather, dim=dim, axis=axis))
            else:
                splits[target].append(axis)
                hops.append(_hop(all_to_all, source=dim, target=target, axis=axis))
    for dim, held in enumerate(splits):
        for axis in want.splits[dim][len(held) :]:
            if axis in scattered:
                hops.append(_hop(reduce_scatter, settles=(axis,), dim=dim, axis=axis))
            else:
                hops.append(_hop(local_slice, sends=False, dim=dim, axis=axis))
    return tuple(hops)


def _hop(operator: Operator, settles: tuple[str, ...] = (), sends: bool = True, **attributes: Any) -> Hop:
    return Hop(operator, operator.normalize(attributes), settles, sends)


def _next_home(axis: str, dim: int, splits: list[list[str]], want: Layout) -> int | None:
    """The other dim that wants `axis` as its next one, if there is one."""
    for target, axes in enumerate(splits):
        wanted = list(want.splits[target])
        if target != dim and wanted[: len(axes) + 1] == [*axes, axis]:
            return target
    return None
