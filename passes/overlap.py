"""Reductions as early as they can be, so that what they send travels while the rest is computed.

A gradient's AR or RS stands, as sharding puts it, where its result is first read: in the update, after the whole
backward pass. Nothing else that it needs is made there. Moved up to where its operand is made, it can be under way
through the rest of the backward pass; how many travel together, and when they are waited for, the backend plans.
So does PyTorch's DistributedDataParallel (Li et al., 2020).
"""

from __future__ import annotations

from graphir.ir.graph import Graph, Node
from graphir.passes.patterns import reduction
from graphir.passes.rewrite import Rewriter


def overlap(graph: Graph) -> Graph:
    """The graph with every collective that reduces placed right after the node that makes its operand.

        dW = dMatmul(X, dY) {only=("dW",)}     dW = dMatmul(X, dY) {only=("dW",)}
        dX = dMatmul(W, dY) {only=("dX",)}     dW.AR = AR(dW) {axes=("dp",)}
        dW.AR = AR(dW) {axes=("dp",)}          dX = dMatmul(W, dY) {only=("dX",)}

    Only these: what they make is no larger than what they take, so that nothing is held that was not before; an AG is
    better late. Several that start from one node keep their order. The order is the graph's, and so all ranks share it.
    """
    return Rewriter(graph).run(_order(graph)) if graph.mesh.axes else graph


def _order(graph: Graph) -> list[Node]:
    """The nodes, each followed by the reductions of what it makes."""
    moved: dict[Node, list[Node]] = {}
    for node in filter(reduction, graph.nodes):
        maker = graph.producers.get(node.inputs[0])
        if maker is not None:
            moved.setdefault(maker, []).append(node)
    placed = {node for nodes in moved.values() for node in nodes}
    order: list[Node] = []
    waiting = [node for node in reversed(graph.nodes) if node not in placed]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting.extend(reversed(moved.get(node, ())))
    return order
