"""How a kernel goes through its arrays: loops over rows, ramps, and whether arrays meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from graphir.backends.rows.expressions import Row
from graphir.backends.rows.plan import Part
from graphir.backends.rows.runs import Axis, FusedRun
from graphir.ir.graph import Node
from graphir.ir.operator import Place

#: A ramp on a tile: its value at the first element, and by how much it grows along each axis.
LaidRamp: TypeAlias = tuple[int, list[int]]
#: A loop over rows: how many, and the step of each array, or ramp, from one to the next.
Loop: TypeAlias = tuple[int, list[int]]


def lay_ramps(run: FusedRun, row: Row, place: Callable[[Node], Place]) -> list[LaidRamp] | None:
    """The ramps of a tile; None where one grows along what is no axis of the run."""
    ramps = []
    for number, where in row.ramps:
        node = run.nodes[number]
        first, steps = where(place(node))
        names = run.task.space.factors[node]
        by_axis: dict[Axis, int] = {(names[name],): step for name, step in steps.items()}
        if not by_axis.keys() <= set(run.axes):
            return None
        ramps.append((first, [by_axis.get(axis, 0) for axis in run.axes]))
    return ramps


def last_of(ramp: LaidRamp, sizes: Sequence[int]) -> int:
    """A ramp's value at the last element."""
    first, steps = ramp
    return first + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))


def merge_loops(sizes: Sequence[int], steps: Sequence[Sequence[int]]) -> list[Loop]:
    """Loops over axes of these sizes, `steps` along them one row for each array; what lies on end is one loop."""
    loops: list[Loop] = []
    for axis, size in enumerate(sizes):
        here = [each[axis] for each in steps]
        if loops and all(outer == inner * size for outer, inner in zip(loops[-1][1], here, strict=True)):
            loops[-1] = loops[-1][0] * size, here
        elif size > 1:
            loops.append((size, here))
    return loops or [(1, [0] * len(steps))]


def overlap(lying: Mapping[int, Part], written: Iterable[int]) -> bool:
    """Whether what is written shares memory with another array."""
    return any(one != other and _meet(lying[one], lying[other]) for one in written for other in lying)


def _meet(one: Part, other: Part) -> bool:
    """Whether two arrays have a byte in common: their bounds do, and they are no columns of the same rows.

    Columns are told apart by a stride that both have, and of which the larger strides of both are multiples: modulo
    that, each array is an interval.
    """
    (low, high), (other_low, other_high) = one.bounds, other.bounds
    if high <= other_low or other_high <= low:
        return False
    mine, others = _strides(one), _strides(other)
    for period in {stride for stride, _ in mine} & {stride for stride, _ in others}:
        if any(stride % period for stride, _ in (*mine, *others) if stride > period):
            continue
        width, other_width = (
            part.array.itemsize + sum(stride * (size - 1) for stride, size in each if stride < period)
            for part, each in ((one, mine), (other, others))
        )
        gap = (other_low - low) % period
        if width <= gap and gap + other_width <= period:
            return False
    return True


def _strides(part: Part) -> list[tuple[int, int]]:
    """The strides in bytes of dims of more than one entry, with their sizes."""
    return [(abs(step), n) for step, n in zip(part.array.strides, part.array.shape, strict=True) if n > 1 and step]
