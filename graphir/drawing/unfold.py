"""Fused graphs unfolded: the nodes that fused nodes hold, each fused node a frame around its own."""

from __future__ import annotations

from dataclasses import replace

from graphir.drawing.naming import fused_symbols
from graphir.drawing.view import Frame, View
from graphir.ir.graph import Graph


def unfolded(graph: Graph, view: View) -> tuple[Graph, View]:
    """The graph that `graph` was fused from, and `view` with a frame for each fused node.

    What several fused nodes hold for themselves, a view, is drawn once, in the first of their frames. As frames reach
    from layer to layer, every layer is drawn.
    """
    from graphir.passes import unfuse

    frames = []
    seen: set[str] = set()
    for node in graph.nodes:
        body = node.body
        if body is not None:
            names = tuple(inner.name for inner in body.nodes if inner.name not in seen)
            seen.update(names)
            frames.append(Frame(" ".join(fused_symbols(node)), names))
    return unfuse(graph), replace(view, frames=tuple(frames), expand=tuple(range(len(graph.nodes))))
