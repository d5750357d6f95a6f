"""Formulas as data that a page can evaluate: sums of products of dims, each distinct one once.

Notation. A formula is a list of terms `[coefficient, {name: power}]`, definitions filled in, so that its names are
those whose sizes a reader may choose: B, S, D, …, and N_T, N_DP of the mesh. A formula is written as its place in the
table of all.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

from graphir.cost import Formula, Polynomial
from graphir.ir.dims import Dim, as_dim, product
from graphir.ir.graph import Graph
from graphir.ir.layout import local_shape
from graphir.ir.types import DTYPES, TensorType

Json = dict[str, Any]


class Table:
    """Distinct entries of plain data, each written by its place."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, entry: Any) -> int:
        """Where `entry` stands; it is added if it is new."""
        key = json.dumps(entry, sort_keys=True, ensure_ascii=False)
        if key not in self._places:
            self._places[key] = len(self.entries)
            self.entries.append(entry)
        return self._places[key]


class Formulas(Table):
    """The formulas of a page, and the types that are made of them."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.types = Table()
        self._known: dict[TensorType, int] = {}
        #: Equal dims are written one way: D_h, not D/N_H.
        self._spelling = {each: each for each in reversed(graph.dims) if len(each.powers) == 1}

    def of_dim(self, dim: Dim, factor: int = 1) -> int:
        """The place of a dim, so many times."""
        return self.of(Polynomial([(dim, factor)]))

    def of(self, polynomial: Polynomial) -> int:
        """The place of a polynomial."""
        return self.place([[_number(count), dict(unit.powers)] for unit, count in polynomial.terms.items()])

    def of_sent(self, formula: Formula) -> int:
        """The place of what a collective sends: terms times N - 1, multiplied out."""
        block = formula.elements * as_dim(formula.width)
        terms: list[tuple[Dim, int]] = []
        for term in formula.terms:
            if formula.ranks is None:
                terms.append((term * block, 1))
            else:
                terms += [(term * formula.ranks * block, 1), (term * block, -1)]
        return self.of(Polynomial(terms))

    def of_type(self, type: TensorType) -> int:
        """The place of a type in `types`: a rank's block of it, what is split and what is pending, and its bytes."""
        known = self._known.get(type)
        if known is None:
            local = tuple(self._spelling.get(each, each) for each in local_shape(type.shape, type.layout))
            entry = {
                "text": type.text,
                "shape": [[str(each), self.of_dim(each)] for each in local],
                "splits": [list(axes) for axes in type.layout.splits],
                "pending": list(type.layout.pending_axes),
                "bytes": self.of_dim(product(local), DTYPES[type.dtype])
                if DTYPES[type.dtype]
                else self.of(Polynomial()),
            }
            known = self._known[type] = self.types.place(entry)
        return known


def _number(count: Fraction) -> int | float:
    return count.numerator if count.denominator == 1 else float(count)
