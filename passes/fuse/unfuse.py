"""Unfolding: the nodes that fused nodes hold, back in the graph under their own names."""

from __future__ import annotations

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph
from graphir.ir.value import Value


def unfuse(graph: Graph) -> Graph:
    """The graph with every fused node replaced by the graph it holds.

    Views that several fused nodes hold for themselves come back once.
    """
    if not any(node.body for node in graph.nodes):
        return graph
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    named: dict[str, Value] = {value.name: copies[value] for value in graph.arguments}
    for node in graph.nodes:
        body = node.body
        for inner in (node,) if body is None else body.nodes:
            if inner.name not in named:
                outputs = [(value.name, value.type) for value in inner.outputs]
                operands = [named[value.name] for value in inner.inputs]
                copy = builder.declare(inner.operator, operands, inner.attributes, outputs, inner.meta)
                named.update((value.name, value) for value in copy.outputs)
    copies.update((value, named[value.name]) for value in graph.values.values())
    builder.copy_aliases(graph, copies)
    return builder.build(*(named[value.name] for value in graph.outputs))
