"""Separating products: the gradients that a d-node makes, each by a node of its own."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes.patterns import product, separable, single
from graphir.passes.rewrite import Rewriter

_PRODUCTS = separable & ~single & product


def separate_products(graph: Graph) -> Graph:
    """The graph with each gradient of a product made by a node of its own: dMatmul becomes one for dX, one for dW.

        dX, dW = dMatmul(X, W, dY)             dX = dMatmul(W, dY) {only=("dX",)}
                                               dW = dMatmul(X, dY) {only=("dW",)}

    Apart they can be carried out where each is best: the one by rows, the other, a sum over rows, by its own.
    """
    return _Separate(graph).run()


class _Separate(Rewriter):
    def visit(self, node: Node) -> Sequence[Value] | None:
        if not _PRODUCTS(node):
            return None
        operator, rule, given = node.operator, node.inference.rule, self.named_operands(node)
        made: list[Value] = []
        for result, value in zip(rule.outputs, node.outputs, strict=True):
            needed = operator.dependencies(rule, (result.name,))
            operands = [operand for name, operand in given.items() if name in needed]
            attributes = operator.restricted(node.attributes, (result.name,))
            made += self.replace(node, operator, operands, attributes, [value])
        return made
