"""Where everything lies: boxes, points and placed texts, in points from the drawing's upper left corner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from graphir.drawing.layout.text import ASCENT, DESCENT, label_width
from graphir.drawing.picture import Label, LegendEntry
from graphir.drawing.style import INK


class Point(NamedTuple):
    """A place."""

    x: float
    y: float


class Box(NamedTuple):
    """An upright rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def center(self) -> Point:
        """Its middle."""
        return Point((self.left + self.right) / 2, (self.top + self.bottom) / 2)

    def shifted(self, dx: float, dy: float) -> Box:
        """The box elsewhere."""
        return Box(self.left + dx, self.top + dy, self.right + dx, self.bottom + dy)

    def grown(self, by: float) -> Box:
        """The box with a margin around it."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of `boxes`; an empty one at the corner if there are none."""
    found = list(boxes)
    if not found:
        return Box(0, 0, 0, 0)
    return Box(
        min(b.left for b in found), min(b.top for b in found), max(b.right for b in found), max(b.bottom for b in found)
    )


class Text(NamedTuple):
    """A line of text: `x`, `y` is where it starts, ends or has its middle (`anchor`), on its base line."""

    label: Label
    x: float
    y: float
    size: float
    anchor: str = "start"
    color: str = INK

    @property
    def box(self) -> Box:
        """The room that it takes."""
        width = label_width(self.label, self.size)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Box(left, self.y - ASCENT * self.size, left + width, self.y + DESCENT * self.size)

    def shifted(self, dx: float, dy: float) -> Text:
        """The text elsewhere."""
        return self._replace(x=self.x + dx, y=self.y + dy)


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """Where a node lies: its box, or one for each rank that meets in it; what is written, what links the boxes."""

    boxes: tuple[Box, ...]
    texts: tuple[Text, ...] = ()
    links: tuple[tuple[Point, ...], ...] = ()

    def mirrored(self, wide: float) -> PlacedNode:
        """The node in a drawing of this width that is mirrored; its texts keep their places in it."""
        boxes = tuple(Box(wide - box.right, box.top, wide - box.left, box.bottom) for box in self.boxes)
        shift = boxes[0].left - self.boxes[0].left
        return PlacedNode(boxes, tuple(text.shifted(shift, 0) for text in self.texts))

    def shifted(self, dx: float, dy: float) -> PlacedNode:
        """The node elsewhere."""
        return PlacedNode(
            tuple(box.shifted(dx, dy) for box in self.boxes),
            tuple(text.shifted(dx, dy) for text in self.texts),
            tuple(_shifted(link, dx, dy) for link in self.links),
        )


@dataclass(frozen=True, slots=True)
class PlacedEdge:
    """An edge's way, corner by corner, from its source to its target, and what is written beside it."""

    points: tuple[Point, ...]
    texts: tuple[Text, ...] = ()

    def shifted(self, dx: float, dy: float) -> PlacedEdge:
        """The edge elsewhere."""
        return PlacedEdge(_shifted(self.points, dx, dy), tuple(text.shifted(dx, dy) for text in self.texts))


@dataclass(frozen=True, slots=True)
class PlacedFrame:
    """A frame around nodes, of a cluster's kind, and its title."""

    kind: str
    box: Box
    texts: tuple[Text, ...] = ()

    def shifted(self, dx: float, dy: float) -> PlacedFrame:
        """The frame elsewhere."""
        return replace(self, box=self.box.shifted(dx, dy), texts=tuple(text.shifted(dx, dy) for text in self.texts))


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """A line of the legend: a swatch, an arrow or a small box, and what it stands for."""

    entry: LegendEntry
    swatch: Box
    text: Text


@dataclass(frozen=True)
class Drawing:
    """A picture laid out. Nodes by id, edges by their place in the picture; `texts` belong to neither."""

    nodes: Mapping[str, PlacedNode]
    edges: Mapping[int, PlacedEdge]
    frames: tuple[PlacedFrame, ...] = ()
    texts: tuple[Text, ...] = ()
    legend: tuple[PlacedEntry, ...] = field(default=())

    @property
    def box(self) -> Box:
        """What all of it takes."""
        boxes = [box for node in self.nodes.values() for box in node.boxes]
        boxes += [text.box for node in self.nodes.values() for text in node.texts]
        boxes += [text.box for edge in self.edges.values() for text in edge.texts]
        boxes += [Box(x, y, x, y) for edge in self.edges.values() for x, y in edge.points]
        boxes += [frame.box for frame in self.frames]
        boxes += [text.box for text in self.texts]
        boxes += [each.swatch for each in self.legend] + [each.text.box for each in self.legend]
        return around(boxes)

    def mirrored(self) -> Drawing:
        """The drawing as a mirror shows it, but for its texts, which stay legible; only for centred ones."""
        wide = self.box.right
        return Drawing(
            {id: node.mirrored(wide) for id, node in self.nodes.items()},
            {at: PlacedEdge(_mirrored(edge.points, wide)) for at, edge in self.edges.items()},
        )

    def shifted(self, dx: float, dy: float) -> Drawing:
        """The drawing elsewhere."""
        return Drawing(
            {id: node.shifted(dx, dy) for id, node in self.nodes.items()},
            {at: edge.shifted(dx, dy) for at, edge in self.edges.items()},
            tuple(frame.shifted(dx, dy) for frame in self.frames),
            tuple(text.shifted(dx, dy) for text in self.texts),
            tuple(
                PlacedEntry(each.entry, each.swatch.shifted(dx, dy), each.text.shifted(dx, dy)) for each in self.legend
            ),
        )


def _shifted(points: Iterable[Point], dx: float, dy: float) -> tuple[Point, ...]:
    return tuple(Point(x + dx, y + dy) for x, y in points)


def _mirrored(points: Iterable[Point], wide: float) -> tuple[Point, ...]:
    return tuple(Point(wide - x, y) for x, y in points)


def joined(*drawings: Drawing) -> Drawing:
    """Several drawings, which share no node and no edge, as one."""
    return Drawing(
        {id: node for each in drawings for id, node in each.nodes.items()},
        {at: edge for each in drawings for at, edge in each.edges.items()},
        tuple(frame for each in drawings for frame in each.frames),
        tuple(text for each in drawings for text in each.texts),
        tuple(entry for each in drawings for entry in each.legend),
    )
