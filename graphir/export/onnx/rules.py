"""How an operator's rule is declared: what ONNX has for it.

    @rule(matmul)
    def _matmul(write: Writer, node: Node, X: Tensor, W: Tensor) -> Tensor:
        return write("MatMul", X, W)

A rule is handed the node's operands in order, and returns its results in order: one, or several, of which those that
nobody reads may be None. It returns None for what it has no better way to say, and the formula is written instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from graphir.export.onnx.writer import Tensor
from graphir.ir.operator import Operator

Written: TypeAlias = Tensor | Sequence[Tensor | None] | None
Rule: TypeAlias = Callable[..., Written]

#: By the operator itself: a notebook may declare another one of the same key.
_RULES: dict[Operator, Rule] = {}


def rule(*operators: Operator) -> Callable[[Rule], Rule]:
    """Declares the decorated function as the rule of `operators`."""

    def declare(write: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, write))
        return write

    return declare


def find_rule(operator: Operator) -> Rule | None:
    """The rule that is declared for an operator, if any."""
    return _RULES.get(operator)
