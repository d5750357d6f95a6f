"""Who gets an axis: factors claim mesh axes at a node, first come, first served."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from graphir.ir.graph import Node
from graphir.ir.layout import Layout
from graphir.ir.signature import Operand, Signature

Axes: TypeAlias = tuple[str, ...]
#: Whether an axis may go to a factor.
Admits: TypeAlias = Callable[[str, str], bool]


class Claims:
    """Axes given to factors, first come, first served; an axis goes to one factor only."""

    def __init__(self, node: Node, rule: Signature) -> None:
        self.rule = rule
        #: Minor factors of a composite dim cannot be split; whole ones only where the node can be taken apart.
        self.barred = rule.minor_factors
        if node.operator.decompose is None:
            self.barred |= rule.whole_factors
        self.owner: dict[str, str] = {}
        self.result: dict[str, Axes] = {}

    def factor(self, factor: str, axes: Iterable[str]) -> None:
        """Claims `axes` for `factor`, as far as both are free."""
        if factor in self.barred or factor in self.result or factor not in self.rule.factors:
            return
        mine = tuple(axis for axis in axes if axis not in self.owner)
        if mine:
            self.result[factor] = mine
            self.owner.update(dict.fromkeys(mine, factor))

    def operand(
        self, operand: Operand, layout: Layout, admits: Admits | None = None, along: Collection[tuple[str, str]] = ()
    ) -> None:
        """Claims for an operand's factors the axes that `layout` splits its dims over, as far as `admits` lets it.

        A dim that gets any takes `along` what splits it already: (factor, axis).
        """
        if not layout.split_axes:
            return
        for axis, axes in zip(operand.axes, layout.splits, strict=True):
            if axis.factors and axes:
                factor = axis.factors[0]
                mine = [each for each in axes if admits is None or admits(factor, each)]
                if mine and along:
                    mine = [each for each in axes if each in mine or (factor, each) in along]
                self.factor(factor, mine)


def held(operands: Iterable[tuple[Operand, Layout]]) -> frozenset[tuple[str, str]]:
    """(factor, axis) where some operand splits the factor over the axis."""
    return frozenset(
        (axis.factors[0], each)
        for operand, layout in operands
        if layout.split_axes
        for axis, axes in zip(operand.axes, layout.splits, strict=True)
        for each in axes
    )


def disputed(splits: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Those (factor, axis) whose axis splits another factor, too."""
    factors: dict[str, set[str]] = {}
    for factor, axis in splits:
        factors.setdefault(axis, set()).add(factor)
    return frozenset((factor, axis) for axis, found in factors.items() if len(found) > 1 for factor in found)
