"""Leaving out nodes that return their operand: the d-node of a sum, dropout at rate 0."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes.patterns import operands, readers, results
from graphir.passes.rewrite import Rewriter


def simplify(graph: Graph) -> Graph:
    """The graph with the readers of what a node only hands on reading the operand itself.

        Y, m = DO(X, seed, step) {p=0.0}
        Z = exp(Y)                             Z = exp(X)

    Which outputs are an operand, an operator declares (`identity`). Outputs of the graph keep their nodes.
    """
    return _Simplify(graph).run()


class _Simplify(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.outputs = frozenset(graph.outputs)

    def visit(self, node: Node) -> Sequence[Value | None] | None:
        if not self._is_idle(node):
            return None
        same = _handed_on(node)
        return [self.new[same[value]] if value in same else None for value in node.outputs]

    def _is_idle(self, node: Node) -> bool:
        """Whether nothing would be missing without the node.

        What it does not hand on (the mask of dropout at rate 0) only idle nodes may read, and only to leave it aside.
        """
        same = _handed_on(node)
        if not same or not self.outputs.isdisjoint(node.outputs):
            return False
        own = [value for value in node.outputs if value not in same]
        return all(
            value not in _handed_on(reader).values() and self._is_idle(reader)
            for value in own
            for reader in readers(self.graph, value)
        )


def _handed_on(node: Node) -> dict[Value, Value]:
    """The node's outputs that are one of its operands, with that operand."""
    if node.operator.identity is None:
        return {}
    made, given = results(node), operands(node)
    pairs = node.operator.identity(node.attributes).items()
    return {made[new]: given[old] for new, old in pairs if new in made and made[new].type == given[old].type}
