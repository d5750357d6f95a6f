"""What stands around a figure: its title and its legend, below it, in as many lines as they need."""

from __future__ import annotations

from graphir.drawing import style
from graphir.drawing.layout.geometry import Box, Drawing, PlacedEntry, Text
from graphir.drawing.layout.text import label_width
from graphir.drawing.picture import Picture, Run

#: The length of an arrow in the legend, between it and its text, between entries, and from line to line.
_SWATCH, _GAP, _BETWEEN, _LINE = 30.0, 6.0, 22.0, 20.0


def furnished(drawing: Drawing, picture: Picture) -> Drawing:
    """The drawing with the picture's title and legend below it, all in the middle of the widest."""
    box = drawing.box
    title = (Run(picture.title, "bold"),)
    widths = [_SWATCH + _GAP + label_width((Run(entry.text),), style.LEGEND) for entry in picture.legend]
    wide = max(box.right, label_width(title, style.TITLE), max(widths, default=0.0), min(sum(widths), 420.0))
    drawing = drawing.shifted((wide - box.right) / 2, 0)
    y = box.bottom + 26
    texts = (Text(title, wide / 2, y, style.TITLE, "middle"),) if picture.title else ()
    entries: list[PlacedEntry] = []
    rows: list[list[int]] = [[]]
    for place, width in enumerate(widths):
        used = sum(widths[i] + _BETWEEN for i in rows[-1])
        if rows[-1] and used + width > wide:
            rows.append([])
        rows[-1].append(place)
    for row in rows if widths else ():
        y += _LINE + 4
        x = (wide - sum(widths[i] for i in row) - _BETWEEN * (len(row) - 1)) / 2
        for place in row:
            entry = picture.legend[place]
            swatch = Box(x, y - 10, x + _SWATCH, y + 2)
            text = Text((Run(entry.text),), x + _SWATCH + _GAP, y, style.LEGEND)
            entries.append(PlacedEntry(entry, swatch, text))
            x += widths[place] + _BETWEEN
    return Drawing(drawing.nodes, drawing.edges, drawing.frames, (*drawing.texts, *texts), tuple(entries))
