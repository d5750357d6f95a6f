"""Keeping slopes: an activation's derivative made where the activation is, in place of its operand being kept."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.operators import multiply
from graphir.passes.rewrite import Rewriter


def keep_slopes(graph: Graph) -> Graph:
    """The graph with activations that make their slope as well, and their d-nodes as products with it.

        A = GL(Z)                              A, A.slope = GLs(Z)
        dZ = dGL(Z, dA)                        dZ = mul(A.slope, dA)

    GELU and its derivative share a tanh, which is most of what they cost; what is kept for the backward pass is as
    large as before. An operator declares that it can (`sloped`); one whose d-node reads something else, because the
    operand is recomputed, stays as it is.
    """
    return _KeepSlopes(graph).run()


class _KeepSlopes(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        #: The d-node of each activation, by the activation's operator, operand and attributes.
        self.gradients: dict[tuple[object, ...], Node] = {}
        for node in graph.nodes:
            forward = node.operator.d_operator_of
            if forward is not None and forward.with_slope is not None:
                self.gradients[(forward, node.inputs[0], node.attributes)] = node
        #: The slope that each d-node is to be a product with.
        self.slopes: dict[Node, Value] = {}

    def visit(self, node: Node) -> Sequence[Value] | None:
        if node in self.slopes:
            return self.replace(node, multiply, [self.slopes[node], self.new[node.inputs[1]]])
        sloped = node.operator.with_slope
        gradient = self.gradients.get((node.operator, node.inputs[0], node.attributes)) if sloped else None
        if sloped is None or gradient is None or gradient in self.slopes:
            return None
        Y, self.slopes[gradient] = self.replace(node, sloped, self.operands(node), node.attributes)
        return [Y]
