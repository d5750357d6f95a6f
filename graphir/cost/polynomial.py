"""Sums of products of dims: `12*D*D + 13*D + D*V`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from graphir.ir.dims import Dim, Sizes


class Polynomial:
    """A sum of dims with coefficients, definitions filled in and equal terms put together. Immutable."""

    __slots__ = ("terms",)

    def __init__(self, terms: Iterable[tuple[Dim, Fraction | int]] = ()) -> None:
        found: dict[Dim, Fraction] = {}
        for dim, count in terms:
            coefficient, powers = dim.expanded
            unit = Dim(powers)
            found[unit] = found.get(unit, Fraction(0)) + coefficient * count
        self.terms: Mapping[Dim, Fraction] = {unit: count for unit, count in found.items() if count}

    def __add__(self, other: Polynomial) -> Polynomial:
        return Polynomial([*self.terms.items(), *other.terms.items()])

    def __mul__(self, factor: Fraction | int) -> Polynomial:
        return Polynomial((unit, count * factor) for unit, count in self.terms.items())

    def number(self, sizes: Sizes) -> Fraction:
        """The value under `sizes`, those of mesh axes (N_T, …) included."""
        total = Fraction(0)
        for unit, count in self.terms.items():
            value = count
            for name, power in unit.powers:
                value *= Fraction(sizes[name]) ** power
            total += value
        return total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and dict(self.terms) == dict(other.terms)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __str__(self) -> str:
        # The terms of highest degree first: they are what matters.
        ordered = sorted(self.terms.items(), key=lambda term: (-sum(p for _, p in term[0].powers), str(term[0])))
        return " + ".join(_term(unit, count) for unit, count in ordered) or "0"

    __repr__ = __str__


def _term(unit: Dim, count: Fraction) -> str:
    if not unit.powers:
        return str(count)
    return str(unit) if count == 1 else f"{count}*{unit}"
