"""How a graph shows itself: `print(graph)` is its text, and a notebook draws it.

The language knows neither text nor drawing. Both are above it, and are given to it here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from graphir.errors import GraphirError
from graphir.ir.graph import Graph

#: Beyond so many nodes a notebook shows a graph in words: a picture of all would be slow, and nobody could read it.
MOST_NODES = 2000


def _text(graph: Graph) -> str:
    from graphir.text import to_text

    return to_text(graph)


def _bundle(graph: Graph, include: Any = None, exclude: Any = None) -> dict[str, str]:
    """What Jupyter shows: the graph drawn as SVG, where it can be, and in words."""
    from graphir.drawing.files import graph_file

    found = {"text/plain": repr(graph)}
    if len(graph.nodes) <= MOST_NODES:
        with suppress(GraphirError):  # nothing here draws: the words are left
            found["image/svg+xml"] = graph_file(graph, "svg").decode()
    return found


Graph.__str__ = _text  # type: ignore[assignment, method-assign]
Graph._repr_mimebundle_ = _bundle  # type: ignore[attr-defined]
