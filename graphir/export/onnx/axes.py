"""Operands and results between the axes of a signature and the factors of a formula.

Within a formula every tensor has its factors in one order, the rule's, and an axis of length 1 where it does not depend
on one; axes before its first factor are left out, as broadcasting has it. So elementwise operations need nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from graphir.export.onnx.writer import Tensor, Writer
from graphir.ir.dims import Dim, product
from graphir.ir.signature import Operand


class Laid(NamedTuple):
    """A tensor whose axes are the last `rank` factors of the order, or of length 1 there."""

    tensor: Tensor
    rank: int


class Axes:
    """The factors of a node's rule in their order, with their dims."""

    def __init__(self, write: Writer, order: Sequence[str], dims: Mapping[str, Dim]) -> None:
        self.write, self.order, self.dims = write, list(order), dims

    def place(self, factor: str) -> int:
        """The axis of a factor, counted from the end."""
        return self.order.index(factor) - len(self.order)

    def lay(self, X: Tensor, operand: Operand) -> Laid:
        """An operand, whose axes are as its signature says."""
        factors = list(operand.factors)
        split = self.write.reshape(X, self._shape(operand), [self.dims[each] for each in factors])
        inner = [factor for factor in self.order if factor in factors]
        ordered = self.write.transpose(split, [factors.index(factor) for factor in inner])
        return self._widened(ordered, inner)

    def along(self, X: Tensor, factor: str) -> Laid:
        """A row of numbers, one for each index of a factor."""
        return self._widened(X, [factor])

    def _widened(self, X: Tensor, factors: Sequence[str]) -> Laid:
        """X, whose axes are `factors` in order, with axes of length 1 between and behind them."""
        rank = -self.place(factors[0]) if factors else 0
        gaps = [axis for axis in range(rank) if self.order[len(self.order) - rank + axis] not in factors]
        return Laid(self.write.unsqueeze(X, gaps), rank)

    def spread(self, X: Laid, factors: frozenset[str], rank: int) -> Laid:
        """X with its whole length along each of `factors`, of the last `rank`."""
        shape = [self.dims[each] if each in factors else product(()) for each in self.order[len(self.order) - rank :]]
        return Laid(self.write("Expand", X.tensor, self.write.shape(shape)), rank)

    def result(self, X: Laid, depends: frozenset[str], result: Operand) -> Tensor:
        """X, which depends on some factors, with the axes that its signature says."""
        write, wanted = self.write, list(result.factors)
        there = self.order[len(self.order) - X.rank :]
        made = write.squeeze(X.tensor, [axis for axis, factor in enumerate(there) if factor not in wanted])
        kept = [factor for factor in there if factor in wanted]
        inner = [factor for factor in wanted if factor in kept]
        made = write.transpose(made, [kept.index(factor) for factor in inner])
        first = wanted.index(inner[0]) if inner else len(wanted)
        gaps = [axis for axis, factor in enumerate(wanted[first:]) if factor not in inner]
        made = write.unsqueeze(made, gaps)
        shape = [self.dims[factor] for factor in wanted]
        if not depends.issuperset(wanted):
            made = write("Expand", made, write.shape(shape))
        return write.reshape(made, shape, self._shape(result))

    def _shape(self, operand: Operand) -> list[Dim]:
        return [product(self.dims[factor] for factor in axis.factors) for axis in operand.axes]
