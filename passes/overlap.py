"""Reductions as early as they can be, so that what they send travels while the rest is computed.

A gradient's AR or RS stands, as sharding puts it, where its result is first read: in the update, after the whole
backward pass. Nothing else that it needs is made there. Moved up to where its operand is made, it can be under way
through the rest of the backward pass; how many travel together, and when they are waited for, the backend plans.
"""

from __future__ import annotations

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph, Node


def overlap(graph: Graph) -> Graph:
    """The graph with every collective that reduces placed right after the node that makes its operand.

    Only these: what they make is no larger than what they take, so that nothing is held that was not before; an AG is
    better late. Several that start from one node keep their order. The order is the graph's, and so all ranks share it.
    """
    if not graph.mesh.axes:
        return graph
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    moved: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        maker = graph.producers.get(node.inputs[0]) if _reduces(node) else None
        if maker is not None:
            moved.setdefault(maker, []).append(node)
    placed = {node for nodes in moved.values() for node in nodes}

    def place(node: Node) -> None:
        builder.copy_node(node, copies)
        for each in moved.get(node, ()):
            place(each)

    for node in graph.nodes:
        if node not in placed:
            place(node)
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


def _reduces(node: Node) -> bool:
    return node.operator.relayout is not None and "reduce" in node.attributes
