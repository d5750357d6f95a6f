"""The interactive page of a whole model, folded and unfolded in place: one HTML file that needs nothing else.

    page = model_page(graph, "GPT-2, dp = 2, tp = 4", {"B": 8, "S": 1024})    # at any stage, of any size

The page holds each distinct block once, drawings included, and the others as references (`data`); so a page of 96
layers on 64 ranks is hardly larger than one of three. What it shows it lays out and paints itself, and only what is
seen is in the document. Formulas are in it as data, so that sliders for dims and mesh need no server.

blocks     a graph cut into blocks, and which are alike        numbers    formulas and types as data
depth      which layers repeat each other                      sizes      sizes that nobody has said
drawings   a block's drawings, as SVG                          page       the HTML
data       all that the page knows of the graph                assets     its program, a file a part, and its looks

The program: `model.js` knows the graph, `depth.js` the same with other layers, `tree.js` what folds, `layout.js` where
everything lies, `overlay.js` what colours say; `paint.js` paints a region of the layout, `stage.js` moves the window,
`app.js` holds the state.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphir.drawing.explore.data import Deeper, figure_data, model_data
from graphir.drawing.explore.page import html
from graphir.drawing.picture import Picture
from graphir.drawing.views import require_layers
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph

__all__ = ["Deeper", "figure_page", "model_page"]


def model_page(
    graph: Graph,
    title: str | None = None,
    sizes: Sizes | None = None,
    expand: Sequence[int] = (),
    deeper: Deeper | None = None,
) -> str:
    """The page of `graph`, at any stage, sharded or not; `expand` are the layers that are unfolded at first.

    `sizes` are those that its sliders begin with; where none is given it is a small GPT-2's, by the documents' names,
    or 64. The number of layers is a slider, too, if they can be seen to repeat: of fewer than four only if `deeper`
    builds more of them. Errors: DimError for sizes that cannot be, ConfigError for layers that are not there,
    MissingDependencyError if nothing can draw SVG.
    """
    require_layers(graph, expand)
    return html(*model_data(graph, title or graph.name, sizes, expand, deeper))


def figure_page(picture: Picture, graph: Graph) -> str:
    """The page of one picture of `graph`. Errors: MissingDependencyError if nothing can draw SVG."""
    return html(*figure_data(picture, graph))
