"""Lays: which bytes an array is, as its address, its shape and its strides say; no byte is ever looked at."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import Any, TypeAlias

import numpy as np

#: Dims of runs: (stride, count), the widest stride first.
_Dims: TypeAlias = tuple[tuple[int, int], ...]
#: How many pairs of rows are looked at to see whether two arrays share an element; what is harder counts as shared.
_WORK = 1 << 12


def address_of(array: Any) -> int:
    """Where the first element of an array lies, NumPy's or a device's."""
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data.ptr)


def is_array(thing: Any) -> bool:
    """Whether it is an array, NumPy's or a device's; a bare number is none."""
    return isinstance(thing, np.ndarray) or (hasattr(thing, "strides") and not isinstance(thing, np.generic))


class Lay:
    """An array's bytes. `low` and `high` are the first and the one after the last; both are 0 of an empty array.

    `key` is equal for arrays that are the same, `cut` for those of one shape, strides and itemsize, which who has many
    of them may number.
    """

    __slots__ = ("_form", "address", "cut", "high", "itemsize", "key", "low", "shape", "size", "strides")

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> None:
        self.address, self.shape, self.strides, self.itemsize = address, shape, strides, itemsize
        self.key = address, shape, strides, itemsize
        self.cut: object = (shape, strides, itemsize)
        self._form: tuple[int, _Dims, int] | None = None
        low = high = address
        self.size = 1
        for length, stride in zip(shape, strides, strict=True):
            self.size *= length
            if stride < 0:
                low += (length - 1) * stride
            else:
                high += (length - 1) * stride
        self.low, self.high = (low, high + itemsize) if self.size else (0, 0)

    @classmethod
    def of(cls, array: Any) -> Lay:
        """An array's."""
        return cls(address_of(array), array.shape, array.strides, array.itemsize)

    @property
    def form(self) -> tuple[int, _Dims, int]:
        """The same bytes as runs: where the first begins, (stride, count) of each dim of runs, and a run's length.

        The widest stride comes first. Two arrays of one form are the same bytes, whatever their dims.
        """
        if self._form is not None:
            return self._form
        dims = [(abs(s), n) for s, n in zip(self.strides, self.shape, strict=True) if n > 1 and s != 0]
        run = self.itemsize
        rest: list[tuple[int, int]] = []
        for stride, count in sorted(dims):
            if not rest and stride == run:
                run *= count
            elif rest and stride == rest[-1][0] * rest[-1][1]:
                rest[-1] = rest[-1][0], rest[-1][1] * count
            else:
                rest.append((stride, count))
        self._form = self.low, tuple(reversed(rest)), run
        return self._form

    @property
    def is_dense(self) -> bool:
        """Whether it is all bytes from the first to the last."""
        return not self.form[1]

    def touches(self, other: Lay) -> bool:
        """Whether the two have a byte in common."""
        if self.low >= other.high or other.low >= self.high:
            return False
        if (self.is_dense and other.is_dense) or self.form == other.form:
            return True
        (start, dims, run), (other_start, other_dims, other_run) = self.form, other.form
        return _meet(other_start - start, dims, run, other_dims, other_run, [_WORK])

    def contains(self, other: Lay) -> bool:
        """Whether all of the other's bytes are among its own; False, too, where that is not easy to see."""
        if other.low < self.low or other.high > self.high:
            return False
        start, dims, run = self.form
        inner_start, inner_dims, inner_run = other.form
        offset, places = inner_start - start, []
        for stride, count in dims:
            place = min(offset // stride, count - 1)
            offset -= place * stride
            places.append(place)
        # What is left is within a run, and takes up so much of it.
        length = inner_run
        for stride, count in inner_dims:
            at = next((i for i, (wide, _) in enumerate(dims) if stride % wide == 0), None)
            if at is not None and places[at] + (count - 1) * (stride // dims[at][0]) < dims[at][1]:
                places[at] += (count - 1) * (stride // dims[at][0])
            else:
                length += (count - 1) * stride
        return offset + length <= run


def _meet(off: int, dims: _Dims, run: int, other_dims: _Dims, other_run: int, budget: list[int]) -> bool:
    """Whether runs have a byte in common with others, the first of which begins `off` bytes behind their first.

    Along the widest stride only few indices are near enough; of each, the rest is looked at in the same way.
    """
    if not dims and not other_dims:
        return -other_run < off < run
    budget[0] -= 1
    if budget[0] < 0:
        return True
    mine, theirs = dims[0][0] if dims else 0, other_dims[0][0] if other_dims else 0
    step = max(mine, theirs)
    inner, others = (dims[1:] if mine == step else dims), (other_dims[1:] if theirs == step else other_dims)
    lowest = -(dims[0][1] - 1) if mine == step else 0
    highest = other_dims[0][1] - 1 if theirs == step else 0
    # -reach of the others < off + index · step < reach of the runs
    lowest = max(lowest, (-_reach(others, other_run) - off) // step + 1)
    highest = min(highest, -(-(_reach(inner, run) - off) // step) - 1)
    return any(_meet(off + index * step, inner, run, others, other_run, budget) for index in range(lowest, highest + 1))


def _reach(dims: _Dims, run: int) -> int:
    return run + sum(step * (count - 1) for step, count in dims)


class Spans:
    """Addresses, as ranges that do not touch each other."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        found: list[list[int]] = []
        for low, high in sorted(ranges):
            if found and low <= found[-1][1]:
                found[-1][1] = max(found[-1][1], high)
            else:
                found.append([low, high])
        self.lows, self.highs = [low for low, _ in found], [high for _, high in found]

    def touch(self, lay: Lay) -> bool:
        """Whether one of the ranges has a byte between the lay's first and last."""
        at = bisect_left(self.lows, lay.high) - 1
        return at >= 0 and self.highs[at] > lay.low

    def hold(self, lay: Lay) -> bool:
        """Whether one of the ranges has all bytes between the lay's first and last."""
        return self.has(lay.low, lay.high)

    def has(self, low: int, high: int) -> bool:
        """Whether one of the ranges has all of another."""
        at = bisect_right(self.lows, low) - 1
        return at >= 0 and self.highs[at] >= high


def covers(written: list[Lay], lay: Lay) -> bool:
    """Whether all bytes of `lay` have been written."""
    if lay.size == 0 or any(each.contains(lay) for each in reversed(written)):
        return True
    if Spans([(each.low, each.high) for each in written if each.is_dense and each.size]).hold(lay):
        return True
    return _count(written, lay) == _bytes(lay)


def _count(written: list[Lay], lay: Lay) -> int:
    """How many bytes have been written of `lay`, by pieces that lie in it and apart from each other."""
    pieces: list[Lay] = []
    for each in written:
        if each.size and lay.contains(each) and not any(each.touches(other) for other in pieces):
            pieces.append(each)
    return sum(map(_bytes, pieces))


def _bytes(lay: Lay) -> int:
    return lay.form[2] * math.prod(count for _, count in lay.form[1])


def nested(strides: tuple[int, ...], lengths: tuple[int, ...], itemsize: int) -> bool:
    """Whether each element has a place of its own that division by the strides, the widest first, finds again."""
    dims = sorted((s, n) for s, n in zip(strides, lengths, strict=True) if n > 1)
    reach = itemsize
    for stride, count in dims:
        if stride < reach:
            return False
        reach += stride * (count - 1)
    return True
