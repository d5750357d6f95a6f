"""Tiling: which nodes can be computed together piece by piece, read off their factor rules.

A tile is to time what a block is to ranks: a range of some factors. Where a node's rule lets a factor be split over
ranks, its work can be cut along that factor, too; what a factor is contracted into becomes a sum over tiles.

    LN     X[b s d!], gamma[d!], … -> H[b s d!]      any rows (b, s), never a part of d
    sum    X[b s d] -> Y[d]                          any rows; Y is the sum over the tiles of rows
    •      Q[b h q k], K[b h k n] -> A[b h q n]      any b, h, q, n; a sum over tiles of k

A `TileSpace` says it for several nodes together: their factors, made one where a value connects them, the *loops*
that tiles run over, and the values that are sums over some of the loops.

A value that some node here makes has the same factors for all who read it: each tile reads what it has made. What
comes from outside is there as a whole, and may be read in several *roles*, each with factors of its own:

    +      X[b c], X[b c] of T(X)                    a tile of b reads rows of X, and columns of it
    •      X[b c], X[b c]                            rows b with all of c, and rows c, all of them, of the same X

So a role is a value of its own to whoever works with tiles: `TileSpace.nodes` read one for each.

Only rules, and which value connects which, decide; so a *structure*, the nodes with their values numbered, is looked
at once, and all layers of a model that look alike share what was found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from graphir.ir.graph import Node
from graphir.ir.operator import Operator
from graphir.ir.roles import Axes, Factor, Roles, Structure, find_roles
from graphir.ir.signature import Signature
from graphir.ir.value import Value


@dataclass(frozen=True)
class TileSpace:
    """The factors of connected nodes.

    nodes     the nodes, each value from outside a value for each role in which it is read
    origins   for each of them the node that it was made from, itself where all that it reads has one role
    outside   for each such role the value from outside
    leaving   the values that were asked for, views of what comes from outside as their roles are
    dims      each value's dims, every dim as its factors, major first
    factors   each node's own factors, by the names in its rule
    loops     the factors that tiles are ranges of, outermost first
    summed    the loops over which a value is a sum (or max) of what the tiles make of it
    """

    nodes: tuple[Node, ...]
    origins: Mapping[Node, Node]
    outside: Mapping[Value, Value]
    leaving: tuple[Value, ...]
    dims: Mapping[Value, Axes]
    factors: Mapping[Node, Mapping[str, Factor]]
    loops: tuple[Factor, ...]
    summed: Mapping[Value, tuple[Factor, ...]]


def tile_space(nodes: Sequence[Node], leaving: Sequence[Value], anchor: Value, rows: int) -> TileSpace | None:
    """The tile space of `nodes` with loops over the first `rows` dims of `anchor`, those left out that are below the
    major one of a composite dim; None if there is none.

    There is none where a node needs all of a loop's range at once, lacks a loop in what it computes, or reads what
    is complete only after the last tile. `leaving` are those of the values that others will read.
    """
    structure, numbers = _structure(nodes)
    pattern = _find_pattern(structure, numbers[anchor], rows) if anchor in numbers else None
    return None if pattern is None else _space_of(nodes, leaving, numbers, pattern)


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
    """A tile space in numbers of roles."""

    roles: Roles
    loops: tuple[Factor, ...]
    summed: Mapping[int, tuple[Factor, ...]]


def _structure(nodes: Sequence[Node]) -> tuple[Structure, dict[Value, int]]:
    """The nodes as tiling sees them, and the number of each of their values."""
    numbers: dict[Value, int] = {}
    places = []
    for node in nodes:
        touched = tuple([numbers.setdefault(value, len(numbers)) for value in (*node.inputs, *node.outputs)])
        rule, factors, _ = node.inference
        places.append((node.operator, rule, tuple(factors.items()), touched))
    return tuple(places), numbers


@lru_cache(maxsize=1024)
def _find_pattern(structure: Structure, anchor: int, rows: int) -> _Pattern | None:
    """As `tile_space`, of a structure."""
    roles = _roles(structure)
    minor = {
        names[f] for (_, rule, _, _), names in zip(roles.places, roles.factors, strict=True) for f in rule.minor_factors
    }
    # Of an anchor that is read in several roles any may do.
    for role in roles.of[anchor]:
        leading = roles.axes[role][:rows]
        if any(len(axis) != 1 for axis in leading) or (rows and leading[-1][0] in minor):
            continue
        # What lies below the major factor of a dim stays whole: the heads of a group, of which the queries are cut.
        loops = tuple(axis[0] for axis in leading if axis[0] not in minor)
        if len(set(loops)) < len(loops) or not roles.tangled.isdisjoint(loops):
            continue
        summed = _find_sums(roles, loops)
        if summed is not None:
            return _Pattern(roles, loops, summed)
    return None


_roles = lru_cache(maxsize=1024)(find_roles)


def _space_of(
    nodes: Sequence[Node], leaving: Sequence[Value], numbers: Mapping[Value, int], pattern: _Pattern
) -> TileSpace:
    """The pattern in nodes and values: new ones where a value has several roles, else those that are there."""
    roles, given = pattern.roles, list(numbers)
    values: list[Value] = []
    for role, number in enumerate(roles.number):
        value = given[number]
        first = roles.of[number][0] == role
        values.append(value if first else Value(value.name, value.type, value.owner, value.init))
    placed: list[Node] = []
    for index, (_, rule, _, touched) in zip(roles.source, roles.places, strict=True):
        node, count = nodes[index], len(rule.inputs)
        read, made = (tuple([values[role] for role in part]) for part in (touched[:count], touched[count:]))
        if read != node.inputs or made != node.outputs:
            node = Node(node.operator, read, node.attributes, made, node.meta, node.inference)
        placed.append(node)
    made_here = {value for node in placed for value in node.outputs}
    return TileSpace(
        tuple(placed),
        {node: nodes[index] for node, index in zip(placed, roles.source, strict=True)},
        {values[role]: given[number] for role, number in enumerate(roles.number) if values[role] not in made_here},
        tuple(values[roles.of[numbers[value]][0]] for value in leaving),
        dict(zip(values, roles.axes, strict=True)),
        dict(zip(placed, roles.factors, strict=True)),
        pattern.loops,
        {values[role]: over for role, over in pattern.summed.items()},
    )


def _find_sums(roles: Roles, loops: tuple[Factor, ...]) -> dict[int, tuple[Factor, ...]] | None:
    """The values that are sums over tiles, as roles; None where tiling is not allowed."""
    summed: dict[int, tuple[Factor, ...]] = {}
    for (operator, rule, _, touched), names in zip(roles.places, roles.factors, strict=True):
        if any(names[factor] in loops for factor in rule.whole_factors | rule.minor_factors):
            return None
        read, made = touched[: len(rule.inputs)], touched[len(rule.inputs) :]
        if any(number in summed for number in read):
            if not operator.view:
                return None
            summed[made[0]] = summed[read[0]]
        elif not operator.view:
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
