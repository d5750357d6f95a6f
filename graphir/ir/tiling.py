"""Tiling: which nodes can be computed together piece by piece, read off their factor rules.

A tile is to time what a block is to ranks: a range of some factors. Where a node's rule lets a factor be split over
ranks, its work can be cut along that factor, too; what a factor is contracted into becomes a sum over tiles.

    LN     X[b s d!], gamma[d!], … -> H[b s d!]      any rows (b, s), never a part of d
    sum    X[b s d] -> Y[d]                          any rows; Y is the sum over the tiles of rows
    •      Q[b h q k], K[b h k n] -> A[b h q n]      any b, h, q, n; a sum over tiles of k

A `TileSpace` says it for several nodes together: their factors, made one where a value connects them, the *loops*
that tiles run over, and the values that are sums over some of the loops.

Only rules, and which value connects which, decide; so a *structure*, the nodes with their values numbered, is looked
at once, and all layers of a model that look alike share what was found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from graphir.ir.graph import Node
from graphir.ir.operator import Operator
from graphir.ir.signature import Signature
from graphir.ir.value import Value

#: A factor of a tile space.
Factor: TypeAlias = int
#: A value's dims, every dim as its factors, major first.
Axes: TypeAlias = tuple[tuple[Factor, ...], ...]
#: A node as tiling sees it: operator, rule, factors, and the numbers of the values that it reads and makes.
_Place: TypeAlias = tuple[Operator, Signature, tuple[str, ...], tuple[int, ...]]
_Structure: TypeAlias = tuple[_Place, ...]


@dataclass(frozen=True)
class TileSpace:
    """The factors of connected nodes.

    dims      each value's dims, every dim as its factors, major first
    factors   each node's own factors, by the names in its rule
    loops     the factors that tiles are ranges of, outermost first
    summed    the loops over which a value is a sum (or max) of what the tiles make of it
    """

    dims: Mapping[Value, Axes]
    factors: Mapping[Node, Mapping[str, Factor]]
    loops: tuple[Factor, ...]
    summed: Mapping[Value, tuple[Factor, ...]]


def tile_space(nodes: Sequence[Node], anchor: Value, rows: int) -> TileSpace | None:
    """The tile space of `nodes` with loops over the first `rows` dims of `anchor`; None if there is none.

    There is none where a node needs all of a loop's range at once, lacks a loop in what it computes, or reads what
    is complete only after the last tile.
    """
    structure, numbers = _structure(nodes)
    pattern = _find_pattern(structure, numbers[anchor], rows) if anchor in numbers else None
    if pattern is None:
        return None
    values = list(numbers)
    return TileSpace(
        dict(zip(values, pattern.axes, strict=True)),
        dict(zip(nodes, pattern.factors, strict=True)),
        pattern.loops,
        {values[number]: over for number, over in pattern.summed.items()},
    )


def most_rows(nodes: Sequence[Node], anchor: Value, limit: int) -> int:
    """The largest number of leading dims of `anchor`, `limit` at most, with which `nodes` have a tile space; or 0."""
    structure, numbers = _structure(nodes)
    if anchor not in numbers:
        return 0
    return next((rows for rows in range(limit, 0, -1) if _find_pattern(structure, numbers[anchor], rows)), 0)


def leading_rows(node: Node) -> tuple[Value, int]:
    """The node's largest value, and how many of its leading dims tiles may be ranges of."""
    position, rows = _leading_rows(node.operator, node.inference.rule)
    return (*node.inputs, *node.outputs)[position], rows


@lru_cache(maxsize=4096)
def _leading_rows(operator: Operator, rule: Signature) -> tuple[int, int]:
    """As `leading_rows`, the value as its position among operands and results."""
    best, most, rank = len(rule.inputs), 0, len(rule.outputs[0].axes)
    if _scatters(operator, rule):
        return best, 0
    fixed = rule.whole_factors | rule.minor_factors
    for position, operand in enumerate((*rule.inputs, *rule.outputs)):
        if len(operand.axes) < rank:
            continue
        free = (i for i, axis in enumerate(operand.axes) if axis.whole or axis.factors[0] in fixed)
        rows = next(free, len(operand.axes))
        if len(operand.axes) > rank or rows > most:
            best, most, rank = position, rows, len(operand.axes)
    return best, most


def _scatters(operator: Operator, rule: Signature) -> bool:
    """Whether each element that is read may land anywhere in the result: every tile would make all of it."""
    read = {factor for operand in rule.inputs for factor in operand.factors}
    written = {factor for operand in rule.outputs for factor in operand.factors}
    return not operator.view and bool(written - read) and bool(read - written)


# -- structures -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pattern:
    """A tile space in numbers: of values, in order of appearance, and of nodes."""

    axes: tuple[Axes, ...]
    factors: tuple[Mapping[str, Factor], ...]
    loops: tuple[Factor, ...]
    summed: Mapping[int, tuple[Factor, ...]]


def _structure(nodes: Sequence[Node]) -> tuple[_Structure, dict[Value, int]]:
    """The nodes as tiling sees them, and the number of each of their values."""
    numbers: dict[Value, int] = {}
    places = []
    for node in nodes:
        touched = tuple([numbers.setdefault(value, len(numbers)) for value in (*node.inputs, *node.outputs)])
        rule, factors, _ = node.inference
        places.append((node.operator, rule, tuple(factors), touched))
    return tuple(places), numbers


@lru_cache(maxsize=16384)
def _find_pattern(structure: _Structure, anchor: int, rows: int) -> _Pattern | None:
    """As `tile_space`, of a structure."""
    axes, factors, tangled = _unify(structure)
    if any(len(axis) != 1 for axis in axes[anchor][:rows]):
        return None
    loops = tuple(axis[0] for axis in axes[anchor][:rows])
    if len(set(loops)) < len(loops) or not tangled.isdisjoint(loops):
        return None
    summed = _find_sums(structure, factors, loops)
    return None if summed is None else _Pattern(axes, factors, loops, summed)


@lru_cache(maxsize=8192)
def _unify(structure: _Structure) -> tuple[tuple[Axes, ...], tuple[Mapping[str, Factor], ...], frozenset[Factor]]:
    """Every value's axes and every node's factors, made one where a value shows them to be the same.

    Last those of dims that one node cuts and another takes as one: no tile can be a range of them.
    """
    parent: list[Factor] = []
    tangled: list[Factor] = []
    seen: dict[int, Axes] = {}
    local: list[dict[str, Factor]] = []

    def find(factor: Factor) -> Factor:
        while parent[factor] != factor:
            parent[factor] = factor = parent[parent[factor]]
        return factor

    for _, rule, own, touched in structure:
        names = {factor: len(parent) + i for i, factor in enumerate(own)}
        parent.extend(names.values())
        local.append(names)
        for number, operand in zip(touched, (*rule.inputs, *rule.outputs), strict=True):
            mine = tuple([tuple([names[factor] for factor in axis.factors]) for axis in operand.axes])
            for one, other in zip(seen.setdefault(number, mine), mine, strict=True):
                if len(one) != len(other):
                    tangled.extend((*one, *other))
                    continue
                for a, b in zip(one, other, strict=True):
                    first, second = sorted((find(a), find(b)))
                    parent[second] = first
    axes = tuple(tuple(tuple(map(find, axis)) for axis in seen[number]) for number in range(len(seen)))
    factors = tuple({name: find(factor) for name, factor in names.items()} for names in local)
    return axes, factors, frozenset(map(find, tangled))


def _find_sums(
    structure: _Structure, factors: Sequence[Mapping[str, Factor]], loops: tuple[Factor, ...]
) -> dict[int, tuple[Factor, ...]] | None:
    """The values that are sums over tiles; None where tiling is not allowed."""
    summed: dict[int, tuple[Factor, ...]] = {}
    for (operator, rule, _, touched), names in zip(structure, factors, strict=True):
        read, made = touched[: len(rule.inputs)], touched[len(rule.inputs) :]
        if any(number in summed for number in read):
            if not operator.view:
                return None
            summed[made[0]] = summed[read[0]]
            continue
        if any(names[factor] in loops for factor in rule.whole_factors | rule.minor_factors):
            return None
        if operator.view:
            continue
        for operand, number in zip(rule.outputs, made, strict=True):
            over = _missing(operand.factors, names, loops)
            if not set(over) <= _read_for(operator, rule, operand.name, names):
                return None
            if over:
                if operator.reduction == "mean":
                    return None
                summed[number] = over
    return summed


def _missing(factors: Collection[str], names: Mapping[str, Factor], loops: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """The loops that a result with these factors lacks."""
    mine = {names[factor] for factor in factors}
    return tuple(loop for loop in loops if loop not in mine)


def _read_for(operator: Operator, rule: Signature, output: str, names: Mapping[str, Factor]) -> Set[Factor]:
    """The factors of the operands that an output depends on."""
    needed = operator.dependencies(rule, (output,))
    return {names[factor] for operand in rule.inputs if operand.name in needed for factor in operand.factors}
