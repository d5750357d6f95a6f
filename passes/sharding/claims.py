"""Who gets an axis: factors claim mesh axes at a node, first come, first served."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

    def operand(self, operand: Operand, layout: Layout, admits: Admits | None = None) -> None:
        """Claims for an operand's factors the axes that `layout` splits its dims over."""
        for axis, axes in zip(operand.axes, layout.splits, strict=True):
            if axis.factors and axes:
                self.factor(axis.factors[0], [each for each in axes if admits is None or admits(axis.factors[0], each)])


def disputed(operands: Iterable[tuple[Operand, Layout]]) -> frozenset[tuple[str, str]]:
    """(factor, axis) where operands split different factors over the same axis."""
    seen: dict[str, set[str]] = {}
    for operand, layout in operands:
        for axis, axes in zip(operand.axes, layout.splits, strict=True):
            for each in axes:
                seen.setdefault(each, set()).add(axis.factors[0])
    return frozenset((factor, axis) for axis, factors in seen.items() if len(factors) > 1 for factor in factors)
