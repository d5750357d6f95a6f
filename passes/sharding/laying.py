"""How a plan's dims lie in one argument: which of its dims an axis splits, or why it splits none."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from graphir.ir.dims import Dim
from graphir.ir.graph import Node
from graphir.ir.value import Value
from graphir.passes.sharding.logical import LogicalDims
from graphir.passes.sharding.plans import Plan
from graphir.passes.sharding.splits import is_called


class DimRules:
    """The dims of a plan, read with what the dims of a graph stand for."""

    def __init__(self, plan: Plan, nodes: Iterable[Node]) -> None:
        self._lies = plan.lies
        self._logical = LogicalDims(nodes if self._lies else ())
        #: The dims that each axis was found to split.
        self._split: dict[str, dict[str, None]] = {axis: {} for axis in self._lies}

    def lay(self, value: Value) -> list[list[str]]:
        """The axes of each dim of `value`."""
        found: list[list[str]] = [[] for _ in value.shape]
        for axis, dims in self._lies.items():
            place = self._place(value, dims)
            if place is not None:
                dim, position = place
                found[position].append(axis)
                self._split[axis][str(dim)] = None
        return found

    def reason(self, value: Value, axis: str) -> str:
        """Why `axis` splits none of the dims of `value`, other arguments having been asked for before."""
        dims = self._lies[axis]
        for position, whole in enumerate(value.shape):
            for reading in self._logical.readings(value, position):
                for minor in reading[1:]:
                    if any(_is_named(minor, name) for name, *_ in dims):
                        product = "·".join(map(str, reading))
                        return f"{minor} is a minor dim of {whole} = {product}, where no split reaches it"
        return f"none of its dims is {_either(list(self._split[axis]))}"

    def _place(self, value: Value, dims: Iterable[tuple[str, ...]]) -> tuple[Dim, int] | None:
        """The first of `dims` that a dim of `value` begins with, and where."""
        readings = [self._logical.readings(value, position) for position in range(len(value.shape))]
        for name, *_ in dims:
            for position, found in enumerate(readings):
                for major, *_ in found:
                    if _is_named(major, name):
                        return major, position
        return None


def _is_named(dim: Dim, name: str) -> bool:
    return is_called(dim, name) or fnmatchcase(str(dim), name)


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
