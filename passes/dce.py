"""Dead code elimination."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.analysis import needed_nodes
from graphir.ir.graph import Graph
from graphir.passes.rewrite import Rewriter


def dce(graph: Graph, outputs: Sequence[str] | None = None) -> Graph:
    """The graph with only the nodes that its outputs (or those named) need. Arguments stay.

        A = exp(X)
        Y = scale(X) {by=2.0}                  Y = scale(X) {by=2.0}
        outputs Y                              outputs Y

    In a sharded graph the name of an output means what the collectives made of it.
    """
    wanted = graph.outputs if outputs is None else [graph.result(name) for name in outputs]
    return Rewriter(graph).run(needed_nodes(graph, wanted), wanted)
