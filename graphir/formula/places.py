"""Integers as sums: of a constant, of multiples of what follows from a place, and of other integers.

`k + start(k) <= q + start(q)` says how a column lies to a row, whatever the two are called: with all of it on one side
it is a number of the place, and whether it holds is known before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from graphir.formula.terms import Term

#: What an integer of a place is: an index, where a block begins, or how long a tensor is; and along which factor.
Place: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Sum:
    """An integer: `constant`, multiples of integers of the place, and of other terms."""

    constant: int = 0
    places: Mapping[Place, int] = field(default_factory=dict)
    others: tuple[tuple[int, Term], ...] = ()

    def plus(self, other: Sum, sign: int = 1) -> Sum:
        """The two added up, or subtracted."""
        places = dict(self.places)
        for key, count in other.places.items():
            places[key] = places.get(key, 0) + sign * count
        kept = {key: count for key, count in places.items() if count}
        others = (*self.others, *((sign * count, each) for count, each in other.others))
        return Sum(self.constant + sign * other.constant, kept, others)

    def times(self, number: int) -> Sum:
        """A multiple."""
        places = {key: number * count for key, count in self.places.items() if number}
        return Sum(number * self.constant, places, tuple((number * count, each) for count, each in self.others))

    def at(self, known: Callable[[Place], int]) -> int:
        """All of it that is no index and no other term, as a number."""
        return self.constant + sum(count * known(key) for key, count in self.places.items() if key[0] != "index")

    @property
    def steps(self) -> Mapping[str, int]:
        """By how much it grows along each factor."""
        return {factor: count for (operation, factor), count in self.places.items() if operation == "index"}


def sum_of(term: Term) -> Sum:
    """An integer term as a sum; what is none is one of its `others`."""
    match term.operation:
        case "number":
            return Sum(int(term.detail))
        case "index" | "start":
            return Sum(places={(term.operation, term.detail): 1})
        case "total" if len(term.detail) == 1:
            return Sum(places={("total", term.detail[0]): 1})
        case "add":
            return sum_of(term.operands[0]).plus(sum_of(term.operands[1]))
        case "subtract":
            return sum_of(term.operands[0]).plus(sum_of(term.operands[1]), -1)
        case "negative":
            return sum_of(term.operands[0]).times(-1)
        case "multiply":
            for X, Y in (term.operands, reversed(term.operands)):
                if Y.operation == "number":
                    return sum_of(X).times(int(Y.detail))
    return Sum(others=((1, term),))
