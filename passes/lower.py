"""Taking composite nodes apart, as A's figures draw them: dMatmul into T and •, CE into S → P → CE."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes.patterns import results
from graphir.passes.rewrite import Rewriter


def lower(graph: Graph) -> Graph:
    """The graph with every node whose operator declares a lowering replaced by simpler ones.

        dW = dMatmul(X, dY) {only=("dW",)}     T0 = T(X)
                                               dW = matmul(T0, dY)

    The results keep their names; the nodes between get new ones, and say what they were lowered from.
    """
    return _Lower(graph).run()


class _Lower(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.outputs = frozenset(graph.outputs)

    def visit(self, node: Node) -> Sequence[Value | None] | None:
        if node.operator.lower is None:
            return None
        # A result that nobody reads (CE's log-sum-exp in a forward graph) need not be made.
        made_of = {o: value for o, value in results(node).items() if self.graph.uses[value] or value in self.outputs}
        names = {name: f"/{value.name}" for name, value in made_of.items()}
        with self.beside(node, f"{node.operator.key} taken apart"):
            made = node.operator.lower(self.named_operands(node), node.attributes, names)
        return [made[name] if name in made_of else None for name in results(node)]
