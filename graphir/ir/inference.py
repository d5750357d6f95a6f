"""What a type check finds of a node, and where a rank's blocks of it lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graphir.ir.dims import Dim
from graphir.ir.signature import Signature
from graphir.ir.types import TensorType


class Inference(NamedTuple):
    """What a type check finds: the rule that fits, each factor's dim, the types of the outputs."""

    rule: Signature
    factors: Mapping[str, Dim]
    types: tuple[TensorType, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kernel's blocks lie: per factor, the first global index here and the global size."""

    rule: Signature
    starts: Mapping[str, int]
    sizes: Mapping[str, int]

    def start(self, factor: str) -> int:
        """The first global index of this rank's block along `factor`."""
        return self.starts.get(factor, 0)

    def region(self, operand: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """An operand's first global indices and its global shape."""
        for each in (*self.rule.inputs, *self.rule.outputs):
            if each.name == operand:
                return tuple(self.start(f) for f in each.factors), tuple(self.sizes[f] for f in each.factors)
        raise KeyError(operand)
