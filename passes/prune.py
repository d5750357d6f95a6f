"""Dead code elimination."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.analysis import needed_nodes
from graphir.ir.builder import Builder
from graphir.ir.graph import Graph


def prune(graph: Graph, outputs: Sequence[str] | None = None) -> Graph:
    """The graph with only the nodes that its outputs (or those named) need. Arguments stay.

    In a sharded graph the name of an output means what the collectives made of it.
    """
    wanted = graph.outputs if outputs is None else [graph.result(name) for name in outputs]
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in needed_nodes(graph, wanted):
        builder.copy_node(node, copies)
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in wanted))
