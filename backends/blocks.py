"""From a whole array to the blocks that ranks hold, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from graphir.backends.arrays import module_of
from graphir.ir.layout import Layout, Mesh


def split_blocks(array: NDArray[Any], layout: Layout, mesh: Mesh) -> list[NDArray[Any]]:
    """Each rank's block of `array` under `layout`, as views; nothing may be pending."""
    if layout.is_replicated:
        return [array] * mesh.size
    return [array[_slices(array.shape, layout, mesh, coordinates)] for coordinates in mesh.ranks]


def _slices(shape: Sequence[int], layout: Layout, mesh: Mesh, coordinates: Mapping[str, int]) -> tuple[slice, ...]:
    result = []
    for size, axes in zip(shape, layout.splits, strict=True):
        index = 0
        for axis in axes:
            index = index * mesh.sizes[axis] + coordinates[axis]
        width = size // mesh.count(axes)
        result.append(slice(index * width, (index + 1) * width))
    return tuple(result)


def join_blocks(blocks: Sequence[Any], layout: Layout, mesh: Mesh) -> Any:
    """The whole array of which each rank holds a block; what is pending is reduced first.

    Of ranks that hold the same, the first is believed; `graphir check` is what compares them.
    """
    if layout.is_replicated:
        return blocks[0]
    xp = module_of(blocks[0])
    first = xp.asarray(blocks[0])
    shape = [size * mesh.count(axes) for size, axes in zip(first.shape, layout.splits, strict=True)]
    whole = xp.empty(shape, first.dtype)
    pending = dict(layout.pending)
    places: dict[tuple[int, ...], tuple[slice, ...]] = {}
    terms: dict[tuple[int, ...], dict[tuple[int, ...], Any]] = {}
    for coordinates, block in zip(mesh.ranks, blocks, strict=True):
        where = _slices(shape, layout, mesh, coordinates)
        start = tuple(part.start for part in where)
        places[start] = where
        terms.setdefault(start, {}).setdefault(tuple(coordinates[axis] for axis in pending), block)
    for start, held in terms.items():
        whole[places[start]] = _reduce(held, list(pending.values()))
    return whole


def _reduce(held: Mapping[tuple[int, ...], Any], kinds: Sequence[str]) -> Any:
    """The reduction of terms keyed by their coordinates along the pending axes, axis after axis."""
    for kind in reversed(kinds):
        rows: dict[tuple[int, ...], list[Any]] = {}
        for key, block in held.items():
            rows.setdefault(key[:-1], []).append(block)
        held = {key: _REDUCE[kind](module_of(row[0]).stack(row)) for key, row in rows.items()}
    return held[()]


_REDUCE = {
    "sum": lambda stack: stack.sum(axis=0),
    "mean": lambda stack: stack.mean(axis=0),
    "max": lambda stack: stack.max(axis=0),
}
