"""An array's layout in memory, without the array: shape and strides, and whether a view of it needs no copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class CopyError(Exception):
    """What was asked for of an array cannot be had without copying it."""


@dataclass(frozen=True)
class StridedLayout:
    """An array's shape and strides, in elements: transposed and reshaped as arrays are, but never copied."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def contiguous(cls, shape: Sequence[int]) -> StridedLayout:
        """Of an array whose elements follow each other."""
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        return cls(tuple(shape), tuple(strides))

    def part(self, shape: Sequence[int]) -> StridedLayout:
        """A part of that shape."""
        return StridedLayout(tuple(shape), self.strides)

    def transpose(self, order: Sequence[int]) -> StridedLayout:
        """The dims in another order."""
        return StridedLayout(tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order))

    def reshape(self, shape: Sequence[int]) -> StridedLayout:
        """The elements, in their order, as an array of another shape. Errors: CopyError where that would be a copy."""
        if math.prod(self.shape) == 0:
            return StridedLayout.contiguous(shape)
        # Dims of one entry lie anywhere.
        dims = [(n, step) for n, step in zip(self.shape, self.strides, strict=True) if n != 1]
        strides: list[int] = []
        size, step = 1, 0
        for wanted in reversed(shape):
            if wanted == 1:
                strides.append(step * size)
                continue
            if size == 1:
                size, step = dims.pop()
            while size % wanted and dims:
                more, outer = dims.pop()
                if outer != step * size:
                    raise CopyError
                size *= more
            if size % wanted:
                raise CopyError
            strides.append(step)
            size, step = size // wanted, step * wanted
        return StridedLayout(tuple(shape), tuple(reversed(strides)))


def view_of(layout: StridedLayout, function: Any, *arguments: Any) -> StridedLayout | None:
    """The layout of what `function` makes of an array and `arguments`; None where that would be a copy."""
    try:
        made: StridedLayout = function(layout, *arguments)
    except CopyError:
        return None
    return made
