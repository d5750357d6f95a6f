"""A picture that is a table: cell by cell, the forward pass beside the backward one, what is written of both below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphir.drawing import style
from graphir.drawing.labels import scripts_label
from graphir.drawing.layout.flow import flow
from graphir.drawing.layout.geometry import Box, Drawing, PlacedFrame, Text, joined
from graphir.drawing.layout.text import label_width
from graphir.drawing.picture import Cell, Picture, Section
from graphir.ir.graph import BACKWARD

_COLUMNS = 2
#: Inside of a cell, between cells, between the two passes; the distance of lines of text; before a section's title.
_INSIDE, _BETWEEN, _APART, _LINE, _TITLE = 10.0, 12.0, 30.0, 12.5, 40.0


@dataclass(frozen=True)
class _Passes:
    """A cell's two drawings."""

    cell: Cell
    forward: Drawing
    backward: Drawing


def grid(picture: Picture) -> Drawing:
    """The picture's sections, one below the other, their cells in columns that are as wide as what is in them."""
    rows = [[_passes(picture, cell) for cell in section.cells] for section in picture.sections]
    left = [max((e.forward.box.right for e in _column(rows, c)), default=0.0) for c in range(_COLUMNS)]
    right = [max((e.backward.box.right for e in _column(rows, c)), default=0.0) for c in range(_COLUMNS)]
    wide = [a + _APART + b + 2 * _INSIDE for a, b in zip(left, right, strict=True)]
    starts = [sum(wide[:c]) + c * _BETWEEN for c in range(_COLUMNS)]
    drawings, texts = [], []
    y = 0.0
    for section, members in zip(picture.sections, rows, strict=True):
        texts.append(_heading(section, y))
        y += _TITLE - 14
        for first in range(0, len(members), _COLUMNS):
            row = members[first : first + _COLUMNS]
            high = max(_height(each, wide[c]) for c, each in enumerate(row))
            for c, each in enumerate(row):
                drawings.append(_cell(each, starts[c], y, wide[c], high, left[c]))
            y += high + _BETWEEN
        y += _TITLE - 22
    return joined(*drawings, Drawing({}, {}, (), tuple(texts)))


def _column(rows: Sequence[Sequence[_Passes]], column: int) -> list[_Passes]:
    return [each for row in rows for place, each in enumerate(row) if place % _COLUMNS == column]


def _heading(section: Section, y: float) -> Text:
    return Text(section.title, 0.0, y + 10, style.TITLE)


def _passes(picture: Picture, cell: Cell) -> _Passes:
    """The cell's nodes in two drawings: those that hang together with a node of the backward pass, and the others."""
    inside = set(cell.nodes)
    edges = [edge for edge in picture.edges if {edge.source, edge.target} <= inside]
    backward = {node.id for node in picture.nodes if node.id in inside and node.op and node.phase == BACKWARD}
    for edge in edges * 2:
        if {edge.source, edge.target} & backward:
            backward |= {edge.source, edge.target}
    return _Passes(cell, _part(picture, inside - backward), _part(picture, backward))


def _part(picture: Picture, inside: set[str]) -> Drawing:
    """Some nodes of the picture and the edges between them, laid out; edges keep their places in the picture."""
    places = [at for at, edge in enumerate(picture.edges) if edge.source in inside and edge.target in inside]
    part = replace(
        picture,
        nodes=tuple(node for node in picture.nodes if node.id in inside),
        edges=tuple(picture.edges[at] for at in places),
        clusters=(), levels=(), order=(), sections=(),
    )  # fmt: skip
    if not inside:
        return Drawing({}, {})
    drawn = flow(part)
    return Drawing(drawn.nodes, {places[at]: edge for at, edge in drawn.edges.items()})


def _height(each: _Passes, wide: float) -> float:
    drawn = max(each.forward.box.bottom, each.backward.box.bottom)
    return 2 * _INSIDE + 22 + drawn + 6 + _LINE * len(_wrapped(each.cell, wide))


def _cell(each: _Passes, x: float, y: float, wide: float, high: float, left: float) -> Drawing:
    inner, top = x + _INSIDE, y + _INSIDE
    title = Text(each.cell.title, inner, top + 10, style.TEXT)
    drawn = max(each.forward.box.bottom, each.backward.box.bottom)
    middle = top + 22 + drawn / 2
    forward = each.forward.shifted(inner, middle - each.forward.box.bottom / 2)
    backward = each.backward.shifted(inner + left + _APART, middle - each.backward.box.bottom / 2)
    below = y + high - _INSIDE - _LINE * len(_wrapped(each.cell, wide)) + 8
    lines = [
        Text(scripts_label(line), inner, below + _LINE * place, style.LEGEND, "start", style.QUIET)
        for place, line in enumerate(_wrapped(each.cell, wide))
    ]
    frame = PlacedFrame("group", Box(x, y, x + wide, y + high))
    return joined(Drawing({}, {}, (frame,), (title, *lines)), forward, backward)


def _wrapped(cell: Cell, wide: float) -> list[str]:
    """The cell's text in lines that fit into it."""
    found: list[str] = []
    for text in cell.lines:
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if line and label_width(scripts_label(longer), style.LEGEND) > wide - 2 * _INSIDE:
                found.append(line)
                longer = f"    {word}"
            line = longer
        found.append(line)
    return found
