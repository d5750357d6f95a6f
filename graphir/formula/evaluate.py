"""A formula's numbers, by any array module: what is known before a run, and what tests compare kernels with.

Every term becomes an array whose axes are the formula's factors in one order, of length 1 where it does not depend on
one. Nothing here is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphir.formula.terms import FUNCTIONS, REDUCTIONS, Term, walk
from graphir.ir.operator import Array, Xp

#: A primitive's numbers, of its term and operands.
Primitive = Callable[..., Any]


def evaluate(
    xp: Xp,
    roots: Sequence[Term],
    order: Sequence[str],
    lengths: Mapping[str, int],
    operands: Mapping[str, Array],
    *,
    dtype: Any,
    starts: Mapping[str, int] | None = None,
    totals: Mapping[str, int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    primitives: Mapping[str, Primitive] | None = None,
) -> list[Array]:
    """The arrays of `roots`, each with an axis for every factor of `order`.

    lengths     of the block along each factor; `totals` those of the whole tensor, where they differ
    operands    arrays with an axis for each factor of `order`
    dtype       of the formula's floats
    starts      where the block begins along each factor, 0 unless given
    """
    known: dict[Term, Any] = {}
    where = _Where(xp, list(order), lengths, starts or {}, totals or lengths, attributes or {})
    for term in walk(roots):
        if not term.operands and term.operation == "operand":
            known[term] = operands[term.detail]
        else:
            given = [known[each] for each in term.operands]
            found = (primitives or {}).get(term.operation)
            known[term] = where.make(term, given, dtype) if found is None else found(term, *given)
    return [known[root] for root in roots]


class _Where:
    """Lengths, beginnings, and what follows from them."""

    def __init__(
        self,
        xp: Xp,
        order: list[str],
        lengths: Mapping[str, int],
        starts: Mapping[str, int],
        totals: Mapping[str, int],
        attributes: Mapping[str, Any],
    ) -> None:
        self.xp, self.order, self.lengths, self.starts = xp, order, lengths, starts
        self.totals, self.attributes = totals, attributes

    def make(self, term: Term, given: Sequence[Array], dtype: Any) -> Array:
        """The array of a term, from those of its operands."""
        xp, operation, detail = self.xp, term.operation, term.detail
        kinds = {"float": dtype, "wide": "float64", "int": "int64", "bool": "bool"}
        match operation:
            case "number":
                return xp.asarray(detail, dtype=kinds[term.kind]).reshape((1,) * len(self.order))
            case "index":
                return self._along(detail, xp.arange(self.lengths[detail]))
            case "start":
                return self._single(self.starts.get(detail, 0))
            case "extent":
                return self._single(_product(self.lengths[factor] for factor in detail))
            case "total":
                return self._single(_product(self.totals[factor] for factor in detail))
            case "attribute":
                return self._single(self.attributes[detail])
            case "convert":
                return given[0].astype(kinds[detail])
            case "round":
                return given[0].astype(detail)
            case "at":
                return self._at(given[0], given[1], self.order.index(detail))
            case "where":
                return xp.where(*given)
        if operation in REDUCTIONS:
            axes = tuple(self.order.index(factor) for factor in detail)
            return getattr(given[0], operation)(axis=axes, keepdims=True)
        if operation in FUNCTIONS and term.kind == "wide":
            given = [each.astype("float64") for each in given]
        return getattr(xp, operation)(*given)

    def _single(self, value: int) -> Array:
        return self.xp.asarray(value).reshape((1,) * len(self.order))

    def _along(self, factor: str, array: Array) -> Array:
        shape = [1] * len(self.order)
        shape[self.order.index(factor)] = -1
        return array.reshape(shape)

    def _at(self, X: Array, where: Array, axis: int) -> Array:
        """X where the index along an axis is `where`: one of another axis perhaps, or of this one."""
        grids = []
        shape = [max(one, other) for one, other in zip(X.shape, where.shape, strict=True)]
        shape[axis] = where.shape[axis]
        for i, length in enumerate(X.shape):
            if i == axis:
                grids.append(self.xp.broadcast_to(where, shape))
            else:
                index = self.xp.arange(shape[i]) if length > 1 else self.xp.zeros(shape[i], dtype="int64")
                grids.append(index.reshape([-1 if j == i else 1 for j in range(len(shape))]))
        return X[tuple(grids)]


def _product(numbers: Any) -> int:
    made = 1
    for each in numbers:
        made *= each
    return made
