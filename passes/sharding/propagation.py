"""Propagation of layouts: at a node, the factors of its rule claim mesh axes, first come, first served.

What a node does follows from its *situation* alone: its rule, and the layouts that it sees. A model of many layers
has few distinct situations, so each is decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from graphir.ir.assignment import is_filled, operand_splits, shares, write_split
from graphir.ir.dims import Dim
from graphir.ir.graph import Node
from graphir.ir.layout import Layout, filled
from graphir.ir.operator import Operator
from graphir.ir.signature import Operand, Signature

Axes: TypeAlias = tuple[str, ...]
#: The axes of each factor that is split, in the order of the claims.
Claimed: TypeAlias = tuple[tuple[str, Axes], ...]
#: Factors of dims that are products, with their dims.
Parts: TypeAlias = tuple[tuple[str, Dim], ...]
#: Whether an axis may go to a factor.
Admits: TypeAlias = Callable[[str, str], bool]


class Situation(NamedTuple):
    """What a node sees. Layouts stand by operand or, of `results`, by output; None where there is none.

    followed  of a d-node: what the forward node did
    given     of parameters, and of what is updated: as the plan has them
    lying     of all else, as it lies; None for what is made to measure. No tuple where nothing lies anywhere yet
    wanted    of operands, and
    results   of outputs, as their consumers or the plan would have them
    offered   of operands made to measure: as they can be had without moving what they are made of; no tuple if none is
    parts     the factors of dims that are products, with their dims
    """

    operator: Operator
    rule: Signature
    followed: Claimed
    given: tuple[Layout | None, ...]
    lying: tuple[Layout | None, ...] | None
    wanted: tuple[Layout | None, ...]
    results: tuple[Layout | None, ...]
    offered: tuple[Layout | None, ...] = ()
    parts: Parts = ()


class Placement(NamedTuple):
    """What a node does: which factor each axis goes to, and what follows.

    operands      the layouts that its operands are brought to
    split         its attribute of that name
    splits_whole  whether a dim that must be whole is split, so that the node has to be taken apart
    """

    claimed: Claimed
    operands: tuple[Layout, ...]
    split: tuple[str, ...]
    splits_whole: bool


def parts_of(node: Node) -> Parts:
    """The factors of those of a node's dims that are products."""
    rule, factors, _ = node.inference
    if not rule.minor_factors:
        return ()
    axes = [axis for operand in (*rule.inputs, *rule.outputs) for axis in operand.axes if len(axis.factors) > 1]
    return tuple({factor: factors[factor] for axis in axes for factor in axis.factors}.items())


@lru_cache(maxsize=2048)
def place(situation: Situation) -> Placement:
    """The placement that the claims make, by order of precedence."""
    rule = situation.rule
    assignment = _assign(situation)
    passed = _passed(situation)
    if not passed.keys().isdisjoint(axis for axes in assignment.values() for axis in axes):
        passed = {}
    return Placement(
        tuple(assignment.items()),
        tuple(Layout(operand_splits(operand, assignment), passed) for operand in rule.inputs),
        write_split(assignment, rule.output_only_factors),
        any(axis.whole and assignment.get(axis.factors[0]) for operand in rule.inputs for axis in operand.axes),
    )


@lru_cache(maxsize=4096)
def spread(
    operator: Operator, rule: Signature, parts: Parts, operands: tuple[Layout | None, ...], output: int
) -> Layout:
    """The layout of a result that spreads its operands, which lie as `operands`, over new dims: none of these split."""
    claims = _Claims(operator, rule, parts)
    for operand, layout in _known(rule.inputs, operands):
        claims.operand(operand, layout)
    return Layout(operand_splits(rule.outputs[output], claims.result))


def _assign(situation: Situation) -> dict[str, Axes]:
    operator, rule, followed, given, lying, wanted, results, offered, parts = situation
    claims = _Claims(operator, rule, parts)
    # 1. The d-node of a node does as the node did.
    for factor, axes in followed:
        claims.factor(factor, axes)
    # 2. The split of the parameters that are read here, the most split first.
    for operand, layout in sorted(_known(rule.inputs, given), key=lambda pair: -len(pair[1].split_axes)):
        claims.operand(operand, layout)
    if operator.updates:  # an update lies as what it updates, whatever its gradient does
        return claims.result
    made = _known(rule.outputs, results)
    if lying is None:
        for operand, layout in made:
            claims.operand(operand, layout)
        return claims.result
    # 3. What is wanted says where a pending axis goes, and decides between operands that disagree.
    pending = {axis for _, layout in _known(rule.inputs, lying) for axis in layout.pending_axes}
    pending -= _passed(situation).keys()
    splits = frozenset(claims.held(_known(rule.inputs, lying)))
    torn = _disputed(splits)
    for operand, layout in made:
        claims.operand(operand, layout, lambda factor, axis: axis in pending or (factor, axis) in torn, splits)
    for operand, mine, target in zip(rule.inputs, lying, wanted, strict=True):
        if pending and mine is not None and target is not None:
            claims.operand(operand, target, _only(pending.intersection(mine.pending_axes)), splits)
    # 4. The operands as they lie, in order.
    for operand, layout in _known(rule.inputs, lying):
        claims.operand(operand, layout)
    # 5. What is made to measure, where what it is made of need not be moved for it.
    for operand, layout in _known(rule.inputs, offered) if offered else ():
        claims.operand(operand, layout)
    # 6. Factors that only outputs have, or operands made to measure, as wanted, over axes that are still free.
    placed = [operand for operand, *layouts in zip(rule.inputs, given, lying, strict=True) if any(layouts)]
    fresh = frozenset(rule.factors).difference(*(operand.factors for operand in placed))
    for operand, layout in made:
        claims.operand(operand, layout, lambda factor, axis: factor in fresh)
    return claims.result


def _passed(situation: Situation) -> dict[str, str]:
    """What is pending in the operands and stays so in the result: through what only moves, sums or adds.

    A cast would round the terms of a sum in place of the sum.
    """
    operator, given, lying = situation.operator, situation.given, situation.lying
    moves = len(given) == 1 and bool(operator.linear) and not (operator.elementwise and operator.flops)
    moves = moves and not operator.retypes
    if lying is None or not (moves or operator.jointly_linear):
        return {}
    layouts = [mine or theirs for mine, theirs in zip(lying, given, strict=True)]
    states = {layout.pending for layout in layouts if layout is not None}
    if None in layouts or len(states) != 1:
        return {}
    pending: dict[str, str] = dict(*states)
    return {} if "max" in pending.values() else pending


class _Claims:
    """Axes given to factors; an axis goes to one factor only."""

    def __init__(self, operator: Operator, rule: Signature, parts: Parts) -> None:
        self.rule, self.dims = rule, dict(parts)
        #: Whole factors can be split only where the node can be taken apart.
        self.barred = rule.whole_factors if operator.decompose is None else frozenset()
        self.owner: dict[str, str] = {}
        self.result: dict[str, Axes] = {}

    def factor(self, factor: str, axes: Collection[str]) -> None:
        """Claims `axes` for `factor`, as far as both are free."""
        if factor in self.barred or factor in self.result or factor not in self.rule.factors:
            return
        if factor in self.rule.minor_factors and not self._is_open(factor):
            return
        # What is left of an axis that was taken apart, and whose first part does something else, is no split by itself.
        torn = {axis.partition(".")[0] for axis in axes if filled(axis) and axis in self.owner}
        mine = tuple(axis for axis in axes if axis not in self.owner and axis.partition(".")[0] not in torn)
        if mine:
            self.result[factor] = mine
            self.owner.update(dict.fromkeys(mine, factor))

    def operand(
        self, operand: Operand, layout: Layout, admits: Admits | None = None, along: Collection[tuple[str, str]] = ()
    ) -> None:
        """Claims for an operand's factors the axes that `layout` splits its dims over, as far as `admits` lets it.

        A dim that gets any takes `along` what splits it already: (factor, axis).
        """
        for factor, axes in self._split(operand, layout):
            mine = [each for each in axes if admits is None or admits(factor, each)]
            if mine and along:
                mine = [each for each in axes if each in mine or (factor, each) in along]
            self.factor(factor, mine)

    def held(self, operands: Iterable[tuple[Operand, Layout]]) -> Iterator[tuple[str, str]]:
        """(factor, axis) where some operand splits the factor over the axis."""
        for operand, layout in operands:
            for factor, axes in self._split(operand, layout):
                yield from ((factor, each) for each in axes)

    def _split(self, operand: Operand, layout: Layout) -> Iterator[tuple[str, Axes]]:
        """The factors of an operand that a layout splits, with their axes."""
        for axis, axes in zip(operand.axes, layout.splits, strict=True):
            if axes and axis.factors:
                yield from ((factor, mine) for factor, mine in shares(axis, axes, self.dims) if mine)

    def _is_open(self, minor: str) -> bool:
        """Whether a minor factor can be split, those before it being split until each rank has one of them."""
        products = {axis.factors for o in (*self.rule.inputs, *self.rule.outputs) for axis in o.axes}
        above = {each for factors in products if minor in factors for each in factors[: factors.index(minor)]}
        return all(is_filled(each, self.result.get(each, ()), self.dims) for each in above)


def _known(operands: Iterable[Operand], layouts: Iterable[Layout | None]) -> list[tuple[Operand, Layout]]:
    """The operands that have a layout, with it."""
    return [(operand, layout) for operand, layout in zip(operands, layouts, strict=True) if layout is not None]


def _disputed(splits: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Those (factor, axis) whose axis splits another factor, too."""
    factors: dict[str, set[str]] = {}
    for factor, axis in splits:
        factors.setdefault(axis, set()).add(factor)
    return frozenset((factor, axis) for axis, found in factors.items() if len(found) > 1 for factor in found)


def _only(axes: Iterable[str]) -> Admits:
    """Admits these axes, to whichever factor."""
    admitted = frozenset(axes)
    return lambda factor, axis: axis in admitted
