"""All figures of the documents, by id: each a view of a graph that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphir.drawing.figures import communication, dictionary, parallel, single
from graphir.drawing.figures.config import Figure, FigureConfig, FigureInfo
from graphir.drawing.picture import Picture
from graphir.drawing.ranks import side_by_side
from graphir.drawing.scene import draw
from graphir.errors import ConfigError, meant
from graphir.ir.graph import Graph

__all__ = ["FIGURES", "Figure", "FigureConfig", "FigureInfo", "figure", "figure_graph", "figures", "find_figure"]

FIGURES: Mapping[str, Figure] = {
    each.id: each
    for each in (
        *single.SMALL,
        *dictionary.FIGURES,
        *single.FIGURES,
        *parallel.TENSOR,
        *communication.FIGURES,
        *parallel.DATA,
    )
}


def figures() -> list[FigureInfo]:
    """All figures, in the documents' order."""
    return [each.info for each in FIGURES.values()]


def find_figure(id: str) -> Figure:
    """The figure of that id; ConfigError, with near misses, if there is none."""
    if id not in FIGURES:
        hint = meant(id, FIGURES, f"there are {', '.join(FIGURES)}", cutoff=0.4)
        raise ConfigError(f"no figure is called {id!r}; {hint}")
    return FIGURES[id]


def figure_graph(id: str, config: FigureConfig | None = None) -> Graph:
    """The graph that the figure is a view of: it verifies, and it runs."""
    return find_figure(id).graph(config or FigureConfig())


def figure(id: str, config: FigureConfig | None = None, graph: Graph | None = None) -> Picture:
    """The figure of that id for a configuration; of another graph, if one is given.

    Errors: ConfigError for an unknown figure.
    """
    declared, config = find_figure(id), config or FigureConfig()
    graph = graph or declared.graph(config)
    view = declared.view(config)
    picture = draw(graph, view, id)
    if declared.finish is not None:
        picture = declared.finish(picture, graph)
    if view.side_by_side:
        picture = side_by_side(picture, graph.mesh)
    costs = " " + declared.costs(graph, config) if declared.costs else ""
    return replace(picture, name=id, title=declared.title, caption=declared.caption + costs)
