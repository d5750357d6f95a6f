"""One value against what it should be: every rank's block, in two norms.

A *deviation* is a block minus the block that the exact result and the value's layout give that rank. Of a value that
is pending, ranks hold terms; their reduction is compared, and belongs to all ranks that hold a term of it.
Ranks that hold the same block should hold the same bits; whether they do is told beside the deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends.arrays import to_numpy
from graphir.backends.blocks import split_blocks
from graphir.backends.dtypes import is_float
from graphir.checking.reference import Reference
from graphir.ir.layout import Layout, Mesh
from graphir.ir.types import TensorType
from graphir.ir.value import Value


@dataclass(frozen=True)
class Comparison:
    """What was found of one value.

    deviation   ‖x̂ − x‖₂ / ‖x‖₂ over the whole value; the ranks' worst copy counts. It is absolute where x is zero
                but for rounding, as the gradient of a bias on K
    largest     the largest |x̂ − x| of an element, over the largest |x|
    allowed     what rounding explains of each, in the same units
    ranks       the ranks whose block departs by more
    replicas    whether ranks that should hold the same bits do
    """

    name: str
    origin: str | None
    type: str
    deviation: float
    largest: float
    allowed: tuple[float, float]
    ranks: tuple[int, ...] = ()
    replicas: bool = True

    @property
    def departs(self) -> bool:
        """Whether rounding does not explain it."""
        return bool(self.ranks)

    @property
    def excess(self) -> float:
        """The deviation in units of what is allowed; above 1 it departs."""
        return max(_ratio(self.deviation, self.allowed[0]), _ratio(self.largest, self.allowed[1]))


def compare(
    value: Value,
    blocks: Sequence[Any],
    mesh: Mesh,
    reference: Reference,
    dtype: str | None = None,
    settled: bool = False,
) -> Comparison:
    """Compares the blocks that the ranks hold of `value`, one a rank, with the reference's.

    `dtype` is what they were computed in, if not the value's own. `settled`: what is pending in the graph has been
    reduced already, on every rank.
    """
    exact = reference.exact[value.name]
    limits = reference.tolerance(value.name, dtype or value.dtype)
    layout = value.type.layout.settled() if settled else value.type.layout
    held = [to_numpy(block) for block in blocks]
    wanted = split_blocks(exact, layout.settled(), mesh)
    gaps = [_gap(found, right) for found, right in zip(_settled(held, layout, mesh), wanted, strict=True)]
    norms = [float(np.sqrt(np.vdot(gap, gap))) for gap in gaps]
    peaks = [float(gap.max()) if gap.size else 0.0 for gap in gaps]
    departing = tuple(
        rank
        for rank, (norm, peak) in enumerate(zip(norms, peaks, strict=True))
        if not (norm <= limits[0] and peak <= limits[1])
    )
    size = reference.norms[value.name]
    if not (size[0] > limits[0] and size[1] > limits[1]):
        size = (1.0, 1.0)  # rounding explains all of it, or it is no float
    return Comparison(
        value.name,
        reference.origin.get(value.name),
        str(TensorType(value.dtype, value.shape, layout)),
        _over_blocks(norms, layout, mesh) / size[0],
        max(peaks, default=0.0) / size[1],
        (limits[0] / size[0], limits[1] / size[1]),
        departing,
        _replicas_agree(held, layout, mesh),
    )


def _gap(found: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """|found − right|, in float64; infinite for NaN, and where shapes differ; 1 for each integer that differs."""
    if found.shape != right.shape:
        return np.full(1, np.inf)
    if not is_float(found.dtype):
        return np.asarray(found != right, np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(found.astype(np.float64) - right)
    if np.isfinite(gap).all():
        return np.asarray(gap, np.float64)
    return np.asarray(np.where(found == right, 0.0, np.where(np.isnan(gap), np.inf, gap)), np.float64)


def _settled(blocks: Sequence[NDArray[Any]], layout: Layout, mesh: Mesh) -> list[NDArray[Any]]:
    """Each rank's block with what is pending reduced, in float64, over the ranks that hold its terms."""
    found = list(blocks)
    for axis, kind in layout.pending:
        for group in mesh.groups([axis]):
            terms = [found[rank] for rank in group]
            if len({term.shape for term in terms}) == 1:
                stack = np.stack([term.astype(np.float64) if is_float(term.dtype) else term for term in terms])
                total = stack.max(axis=0) if kind == "max" else stack.sum(axis=0)
                total = total / len(group) if kind == "mean" else total
                for rank in group:
                    found[rank] = np.asarray(total)
    return found


def _over_blocks(norms: Sequence[float], layout: Layout, mesh: Mesh) -> float:
    """The norm of the whole from its blocks' norms, the worst copy of each."""
    worst: dict[tuple[int, ...], float] = {}
    for coordinates, norm in zip(mesh.ranks, norms, strict=True):
        key = tuple(coordinates[axis] for axis in layout.split_axes)
        worst[key] = max(worst.get(key, 0.0), norm)
    with np.errstate(over="ignore"):
        return float(np.sqrt(sum(np.float64(norm) ** 2 for norm in worst.values())))


def _replicas_agree(blocks: Sequence[NDArray[Any]], layout: Layout, mesh: Mesh) -> bool:
    first: dict[tuple[int, ...], NDArray[Any]] = {}
    for coordinates, block in zip(mesh.ranks, blocks, strict=True):
        key = tuple(coordinates[axis] for axis in (*layout.split_axes, *layout.pending_axes))
        other = first.setdefault(key, block)
        if other is not block and not np.array_equal(other, block, equal_nan=is_float(block.dtype)):
            return False
    return True


def _ratio(deviation: float, allowed: float) -> float:
    if deviation == 0:
        return 0.0
    return deviation / allowed if allowed else float("inf")


def block_text(value: Value, mesh: Mesh, rank: int, sizes: dict[str, int]) -> str:
    """The part that a rank holds: `[B 2:4, S, D 0:8]`, with `a term of the sum over tp` where one is pending."""
    parts = []
    for each, axes in zip(value.shape, value.type.layout.splits, strict=True):
        index = 0
        for axis in axes:
            index = index * mesh.sizes[axis] + mesh.ranks[rank][axis]
        width = each.size(sizes) // mesh.count(axes)
        parts.append(f"{each} {index * width}:{(index + 1) * width}" if axes else str(each))
    terms = "".join(f", a term of the {kind} over {axis}" for axis, kind in value.type.layout.pending)
    return f"[{', '.join(parts)}]{terms}"
