"""How a plan's dims lie in one argument: which of its dims an axis splits, or why it splits none."""

from __future__ import annotations

from typing import NamedTuple

from graphir.ir.dims import Dim
from graphir.ir.layout import Mesh, filled
from graphir.ir.value import Value
from graphir.passes.sharding.logical import LogicalDims, Reading
from graphir.passes.sharding.plans import Plan
from graphir.passes.sharding.splits import is_named


class Place(NamedTuple):
    """Where an axis of a plan lies: the position of the dim that it splits, what that stands for, the mesh's axes."""

    position: int
    reading: Reading
    axes: tuple[str, ...]


class DimRules:
    """The dims of a plan, read with what the dims of a graph stand for."""

    def __init__(self, plan: Plan, mesh: Mesh, logical: LogicalDims) -> None:
        self._lies, self._mesh, self._logical = plan.lies, mesh, logical

    def lay(self, value: Value) -> list[list[str]]:
        """The axes of each dim of `value`."""
        found: list[list[str]] = [[] for _ in value.shape]
        for axis in self._lies:
            place = self.place(value, axis)
            if place is not None:
                found[place.position] += place.axes
        return found

    def products(self, value: Value) -> list[int]:
        """The positions of those dims of `value` that stand for others."""
        return [place for place in range(len(value.shape)) if len(self._logical.readings(value, place)) > 1]

    def place(self, value: Value, axis: str) -> Place | None:
        """Where an axis of the plan lies in `value`: in the first dim of its list that a dim begins with."""
        readings = [self._logical.readings(value, position) for position in range(len(value.shape))]
        for product in self._lies[axis]:
            for position, found in enumerate(readings):
                fitting = [reading for reading in found if is_named(reading[0], product[0])]
                if fitting:
                    # The one that has most of the product: heads of queries are N_KV·G, those of keys N_KV.
                    reading = max(fitting, key=lambda each: _shared(each, product))
                    return Place(position, reading, self._axes(axis, reading, product))
        return None

    def minor(self, value: Value, axis: str) -> tuple[Dim, Reading] | None:
        """A dim of an axis's list that stands within a product in `value`, where no split reaches it."""
        for position in range(len(value.shape)):
            for reading in self._logical.readings(value, position):
                for dim in reading[1:]:
                    if any(is_named(dim, product[0]) for product in self._lies[axis]):
                        return dim, reading
        return None

    def _axes(self, axis: str, reading: Reading, product: tuple[str, ...]) -> tuple[str, ...]:
        parts = self._mesh.parts(axis)
        alone = len(parts) > 1 and filled(parts[0]) == str(reading[0]) and _shared(reading, product) < len(product)
        return parts[:1] if alone else parts


def _shared(reading: Reading, product: tuple[str, ...]) -> int:
    """With how many of the dims of `product` the reading begins."""
    count = 0
    for dim, name in zip(reading, product, strict=False):
        if not is_named(dim, name):
            break
        count += 1
    return count
