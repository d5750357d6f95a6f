"""Common subexpression elimination."""

from __future__ import annotations

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph
from graphir.ir.value import Value


def share(graph: Graph) -> Graph:
    """The graph with nodes that compute the same from the same made one; the first of them stays.

    The same means: operator, operands and attributes, and with them the key of a random node, and the phase. A node
    whose result is an output, or is the only one to update an argument, keeps its own.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    first: dict[tuple[object, ...], tuple[Value, ...]] = {}
    outputs = frozenset(graph.outputs)
    for node in graph.nodes:
        operands = tuple(copies[value] for value in node.inputs)
        key = (node.operator, operands, node.attributes, node.meta.phase)
        known = first.get(key)
        if known is not None and outputs.isdisjoint(node.outputs) and not node.operator.updates:
            copies.update(zip(node.outputs, known, strict=True))
            continue
        builder.copy_node(node, copies)
        first.setdefault(key, tuple(copies[value] for value in node.outputs))
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))
