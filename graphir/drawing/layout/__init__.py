"""Layout: where everything in a picture lies. Plain data in, plain data out; nothing is drawn here.

    drawing = lay_out(picture)

flow       a picture as items and links    parts     a node with what stands at its sides
lanes      ranks side by side                grid     a table of small pictures
stack      layers below each other
strip      items and links as cells        layers    which layer an item lies in
order      the order within a layer        columns   straight columns, near each other
borders    what frames hold, apart         channels  tracks between two layers
layered    all of these, one by one        frames    frames and their titles
furniture  title and legend                text      how wide text is
geometry   points, boxes, placed things
"""

from __future__ import annotations

from graphir.drawing.layout.flow import flow
from graphir.drawing.layout.furniture import furnished
from graphir.drawing.layout.geometry import Drawing
from graphir.drawing.layout.grid import grid
from graphir.drawing.layout.lanes import has_lanes, lanes
from graphir.drawing.layout.stack import is_stack, stack
from graphir.drawing.picture import Picture

__all__ = ["Drawing", "lay_out"]


def lay_out(picture: Picture) -> Drawing:
    """Where everything in the picture lies, from the upper left corner, in points."""
    if picture.sections:
        drawing = grid(picture)
    elif has_lanes(picture):
        drawing = lanes(picture)
    elif is_stack(picture):
        drawing = stack(picture)
    else:
        drawing = flow(picture)
    return furnished(drawing, picture)
