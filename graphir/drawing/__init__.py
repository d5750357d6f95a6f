"""Drawing: every figure is a view of a graph that runs.

    picture = figure("mha-backward")            # a figure of the documents, as plain data
    source = dot(picture)                       # as DOT
    source = to_dot(graph, view="overall")      # any graph, at any stage

picture    what is drawn, as plain data         view     which part of a graph, how far folded
labels     names typeset as the documents do    style    the one table of colours, shapes and lines
vertices   nodes and blocks                     scene    the edges between them, and ports
arrange    rows, frames, legend                 ranks    ranks side by side
layout     where everything lies                paint    a laid-out picture as SVG
dot        picture to DOT                       render   files of every format
files      drawings as files, whatever the format
figures    the documents' figures, by id        views    ready-made views of any graph
explore    a whole model as one page            inline   what lets a page stand alone
"""

from __future__ import annotations

from graphir.drawing.dot import dot
from graphir.drawing.figures import FigureConfig, FigureInfo, figure, figure_graph, figures
from graphir.drawing.picture import Cluster, Picture, PictureEdge, PictureNode
from graphir.drawing.scene import draw
from graphir.drawing.view import Fold, View
from graphir.drawing.views import find_view, usual_view
from graphir.ir.graph import Graph

__all__ = [
    "Cluster",
    "FigureConfig",
    "FigureInfo",
    "Fold",
    "Picture",
    "PictureEdge",
    "PictureNode",
    "View",
    "dot",
    "draw",
    "figure",
    "figure_graph",
    "figures",
    "find_view",
    "to_dot",
    "usual_view",
]


def to_dot(graph: Graph, view: str | View = "overall") -> str:
    """DOT source of any graph at any stage, under a view or the ready-made view of that name.

    Errors: ConfigError for an unknown view.
    """
    return dot(draw(graph, find_view(graph, view), graph.name))
