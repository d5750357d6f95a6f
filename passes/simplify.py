"""Leaving out nodes that return their operand: the d-node of a sum, dropout at rate 0."""

from __future__ import annotations

from collections.abc import Set

from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value


@without_collector
def simplify(graph: Graph) -> Graph:
    """The graph with the readers of what a node only hands on reading the operand itself.

    Which outputs are an operand, an operator declares (`identity`). Outputs of the graph keep their nodes.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    outputs = frozenset(graph.outputs)
    for node in graph.nodes:
        if _is_idle(node, graph, outputs):
            copies.update((value, copies[operand]) for value, operand in _handed_on(node).items())
        else:
            builder.copy_node(node, copies)
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


def _is_idle(node: Node, graph: Graph, outputs: Set[Value]) -> bool:
    """Whether nothing would be missing without the node.

    What it does not hand on (the mask of dropout at rate 0) only idle nodes may read, and only to leave it aside.
    """
    same = _handed_on(node)
    if not same or not outputs.isdisjoint(node.outputs):
        return False
    own = [value for value in node.outputs if value not in same]
    readers = [(value, reader) for value in own for reader, _ in graph.uses[value]]
    return all(
        value not in _handed_on(reader).values() and _is_idle(reader, graph, outputs) for value, reader in readers
    )


def _handed_on(node: Node) -> dict[Value, Value]:
    """The node's outputs that are one of its operands, with that operand."""
    if node.operator.identity is None:
        return {}
    rule = node.inference.rule
    inputs = dict(zip((o.name for o in rule.inputs), node.inputs, strict=True))
    outputs = dict(zip((o.name for o in rule.outputs), node.outputs, strict=True))
    pairs = node.operator.identity(node.attributes).items()
    return {outputs[new]: inputs[old] for new, old in pairs if new in outputs and outputs[new].type == inputs[old].type}
