"""The arrays of a tile as a formula sees them: with an axis for every factor, of length 1 where there is none."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array
from graphir.formula.terms import Term
from graphir.ir.operator import Place
from graphir.ir.signature import Operand, Signature, is_literal


class TileArrays:
    """The arrays of a tile, each with an axis for every factor, and what is known of where they lie."""

    def __init__(self, rule: Signature, lengths: Mapping[str, int], place: Place) -> None:
        self.order, self.lengths, self.place = rule.factors, lengths, place
        self.operands: dict[str, Array] = {}
        self.results: dict[str, Array] = {}
        #: As they were given.
        self.given: Mapping[str, Array] = {}
        self.dtype: np.dtype[Any] = np.dtype("float64")

    @classmethod
    def of(
        cls, rule: Signature, operands: Mapping[str, Array], results: Mapping[str, Array], place: Place
    ) -> TileArrays | None:
        """None where an axis of several factors lies in no way in which each factor is an axis."""
        lengths = _lengths(rule, {**operands, **results})
        if lengths is None:
            return None
        made = cls(rule, lengths, place)
        made.given = operands
        for each in rule.inputs:
            spread = made._spread(operands[each.name], each)
            if spread is None:
                return None
            made.operands[each.name] = _unrepeated(spread)
        for each in rule.outputs:
            if each.name in results:
                spread = made._spread(results[each.name], each)
                if spread is None:
                    return None
                made.results[each.name] = spread
        floats = [operands[each.name] for each in rule.inputs if each.dtype == ""]
        floats += [array for array in results.values() if array.dtype.kind not in "bi"]
        if floats:
            made.dtype = floats[0].dtype
        return made

    def _spread(self, array: Array, operand: Operand) -> Array | None:
        factors = operand.factors
        if len(factors) != len(operand.axes):
            split = array.reshape([self.lengths[factor] for factor in factors])
            if not np.may_share_memory(split, array):
                return None
            array = split
        positions = [self.order.index(factor) for factor in factors]
        if positions != sorted(positions):
            array = array.transpose(sorted(range(len(positions)), key=positions.__getitem__))
        if len(factors) == len(self.order):
            return array
        mine = set(factors)
        return array[tuple(slice(None) if factor in mine else None for factor in self.order)]

    def shape(self, term: Term) -> tuple[int, ...]:
        """The shape of a term's array."""
        return tuple(self.lengths[factor] if factor in term.factors else 1 for factor in self.order)

    def dtype_of(self, term: Term) -> np.dtype[Any]:
        """The dtype of a term's array."""
        if term.operation == "round":
            dtype: np.dtype[Any] = np.dtype(term.detail)
            return dtype
        return self.dtype if term.kind == "float" else _KINDS[term.kind]

    def axes(self, factors: Collection[str]) -> tuple[int, ...]:
        """The axes of factors, in order."""
        return tuple(i for i, factor in enumerate(self.order) if factor in factors)


_KINDS: Mapping[str, np.dtype[Any]] = {
    "wide": np.dtype("float64"),
    "int": np.dtype("int64"),
    "bool": np.dtype("bool"),
}


def _lengths(rule: Signature, arrays: Mapping[str, Array]) -> dict[str, int] | None:
    """How long the tile is along each factor; None where that does not follow."""
    found = {factor: int(factor) for factor in rule.factors if is_literal(factor)}
    several = []
    for each in (*rule.inputs, *rule.outputs):
        if each.name not in arrays:
            continue
        for axis, length in zip(each.axes, arrays[each.name].shape, strict=True):
            if len(axis.factors) == 1:
                found[axis.factors[0]] = length
            else:
                several.append((axis.factors, length))
    for factors, length in several:
        unknown = [factor for factor in factors if factor not in found]
        if len(unknown) > 1:
            return None
        if unknown:
            found[unknown[0]] = length // math.prod(found[factor] for factor in factors if factor != unknown[0])
    return found


def _unrepeated(array: Array) -> Array:
    """`array` with one entry along axes on which it only repeats itself."""
    if 0 not in array.strides:
        return array
    repeats = [stride == 0 and size > 1 for stride, size in zip(array.strides, array.shape, strict=True)]
    return array[tuple(slice(0, 1) if repeat else slice(None) for repeat in repeats)] if any(repeats) else array
