"""Boxes: ranges of indices, one a dim, and sets of them.

A box is what a tile is to a value: `((0, 4), (8, 16))` are rows 0 to 3 and columns 8 to 15. All of a scalar is `()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[Range, ...]


def whole(sizes: Iterable[int]) -> Box:
    """All indices of a shape."""
    return tuple([(0, size) for size in sizes])


def is_empty(box: Box) -> bool:
    """Whether the box has no index at all."""
    return any(low >= high for low, high in box)


def common(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None if that is nothing."""
    found = []
    for (a, b), (c, d) in zip(one, other, strict=True):
        low, high = max(a, c), min(b, d)
        if low >= high:
            return None
        found.append((low, high))
    return tuple(found)


def without(box: Box, other: Box) -> list[Box]:
    """`box` without what `other` has of it, in disjoint boxes."""
    inner = common(box, other)
    if inner is None:
        return [box]
    rest, left = [], list(box)
    for dim, ((low, high), (start, stop)) in enumerate(zip(box, inner, strict=True)):
        for piece in ((low, start), (stop, high)):
            if piece[0] < piece[1]:
                rest.append((*left[:dim], piece, *left[dim + 1 :]))
        left[dim] = start, stop
    return rest


def lies_in(box: Box, other: Box) -> bool:
    """Whether all of a box is in the other."""
    return all(start <= low and high <= stop for (low, high), (start, stop) in zip(box, other, strict=True))


def missing(boxes: Sequence[Box], held: Sequence[Box]) -> list[Box]:
    """What of `boxes` is not in `held`, in disjoint boxes."""
    rest = list(boxes)
    for each in held:
        if not rest:
            break
        if len(rest) == 1 and lies_in(rest[0], each):
            return []
        rest = [piece for box in rest for piece in without(box, each)]
    return rest


def cut_alike(boxes: Iterable[Box]) -> list[Box]:
    """The same indices in disjoint boxes, of which each of the given ones has either all or nothing."""
    parts: list[Box] = []
    for box in boxes:
        new = missing([box], parts)
        inner = [both for part in parts if (both := common(part, box)) is not None]
        parts = [piece for part in parts for piece in without(part, box)] + inner + new
    return parts


def merged(one: Box, other: Box) -> Box | None:
    """The box that two disjoint ones make together; None if they make none."""
    at = -1
    for dim, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            if at >= 0 or (a[1] != b[0] and b[1] != a[0]):
                return None
            at = dim
    if at < 0:
        return one
    return (*one[:at], (min(one[at][0], other[at][0]), max(one[at][1], other[at][1])), *one[at + 1 :])


class Region:
    """A set of indices, as disjoint boxes, as few as come easily."""

    __slots__ = ("boxes",)

    def __init__(self, boxes: Iterable[Box] = ()) -> None:
        self.boxes: list[Box] = list(boxes)

    def __bool__(self) -> bool:
        return bool(self.boxes)

    def add(self, box: Box) -> None:
        """Takes `box` in."""
        if any(common(each, box) for each in self.boxes):
            self.remove(box)
        here = 0
        while here < len(self.boxes):
            larger = merged(self.boxes[here], box)
            here += 1
            if larger is not None:
                # What has grown may now fit to those that it did not fit to before.
                del self.boxes[here - 1]
                box, here = larger, 0
        self.boxes.append(box)

    def remove(self, box: Box) -> None:
        """Leaves `box` out."""
        self.boxes = [piece for each in self.boxes for piece in without(each, box)]

    def within(self, boxes: Iterable[Box]) -> list[Box]:
        """What it has of `boxes`, which are disjoint."""
        return [inner for box in boxes for each in self.boxes if (inner := common(each, box)) is not None]

    def bounds(self) -> Box:
        """The smallest box that has all of it, which is not empty."""
        return tuple(
            [(min(low for low, _ in dim), max(high for _, high in dim)) for dim in zip(*self.boxes, strict=True)]
        )


def spelled(names: Sequence[str], box: Box) -> str:
    """`[B 0:2, S 5, D 0:8]`."""
    parts = [
        f"{name} {low}" if high - low == 1 else f"{name} {low}:{high}"
        for name, (low, high) in zip(names, box, strict=True)
    ]
    return f"[{', '.join(parts)}]"
