"""Common subexpression elimination: local value numbering, as the whole graph is one basic block."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes.rewrite import Rewriter


def cse(graph: Graph) -> Graph:
    """The graph with nodes that compute the same from the same made one; the first of them stays.

        P = S(X)                               P = S(X)
        Q = S(X)
        Y = add(P, Q)                          Y = add(P, P)

    The same means: operator, operands and attributes, and with them the key of a random node, and the phase. A node
    whose result is an output, or is the only one to update an argument, keeps its own.
    """
    return _Sharing(graph).run()


class _Sharing(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.outputs = frozenset(graph.outputs)
        #: The first node to compute something, by all that tells it from others.
        self.first: dict[tuple[object, ...], Node] = {}

    def visit(self, node: Node) -> Sequence[Value] | None:
        key = (node.operator, tuple(self.operands(node)), node.attributes, node.meta.phase)
        first = self.first.setdefault(key, node)
        if first is node or node.operator.updates or not self.outputs.isdisjoint(node.outputs):
            return None
        return [self.new[value] for value in first.outputs]
