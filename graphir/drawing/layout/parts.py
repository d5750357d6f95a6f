"""A node with what lies at its sides: the room that it takes, and where everything is, seen from the node's middle.

At its left stand the values that wait there to be read, a line for each; at its right what leaves it for good, as
parameters' gradients do, each by way of the collective in which it meets the other ranks', if there is one. Arrows
between are straight and level; a node is as high as they need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphir.drawing import style
from graphir.drawing.labels import plain
from graphir.drawing.layout.geometry import Box, PlacedEdge, PlacedNode, Point, Text, around
from graphir.drawing.layout.text import label_width
from graphir.drawing.picture import Label, Picture, PictureEdge, PictureNode, Run
from graphir.ir.graph import UPDATE

#: The distance of lines of text; the room above an arrow that bears a label; the distance of collectives.
LINE, LABELLED, COLLECTIVE = 16.0, 15.0, 27.0
#: How long an arrow at a node's side is, the room at both ends of a label above one, and between it and a text.
ARROW, AROUND, GAP = 26.0, 8.0, 4.0
#: From the middle of a line of text down to the line that it stands on.
BASE = 4.0
#: Between a name and its shape.
_BLANK = (Run(" "),)


def named(name: Label, shape: Label) -> tuple[float, Label, Label]:
    """The width of a name and its shape behind it, and both."""
    width = label_width(name, style.TEXT)
    if name and shape:
        width += label_width(_BLANK, style.TEXT)
    return width + label_width(shape, style.SHAPE), name, shape


def named_texts(name: Label, shape: Label, x: float, y: float, anchor: str = "start") -> tuple[Text, ...]:
    """A name and, smaller and quieter, its shape, on one line whose middle is at `y`."""
    width = named(name, shape)[0]
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    texts = [Text(name, left, y + BASE, style.TEXT)] if name else []
    if shape:
        texts.append(
            Text(shape, left + width - label_width(shape, style.SHAPE), y + BASE, style.SHAPE, "start", style.QUIET)
        )
    return tuple(texts)


def is_sign(node: PictureNode) -> bool:
    """Whether a node is drawn as a circle with one character in it."""
    return node.kind == "sign" and len(plain(node.lines[0])) == 1


def node_size(node: PictureNode) -> tuple[float, float]:
    """The width and height that a node needs for what is written in it."""
    size = style.SIGN if is_sign(node) else style.LEGEND if node.kind == "note" else style.TEXT
    text = max((label_width(line, size) for line in node.lines), default=0.0)
    high = 15.0 * len(node.lines)
    if node.kind in ("junction", "stub"):
        return 0.0, 0.0
    if node.kind in ("port", "note"):
        shapes = node.shapes or ((),) * len(node.lines)
        wide = max((named(line, shape)[0] for line, shape in zip(node.lines, shapes, strict=True)), default=0.0)
        return (wide if node.kind == "port" else text) + 4, high
    if is_sign(node):
        return 22.0, 22.0
    if node.kind == "sign":
        return text + 16, 22.0
    if node.kind == "block":
        return max(78.0, text + 22), 15 + high
    return max(44.0 if node.kind == "collective" else 30.0, text + 15), 7 + high


def node_texts(node: PictureNode, x: float = 0.0, y: float = 0.0) -> tuple[Text, ...]:
    """What is written in a node whose middle is at `x`, `y`."""
    if node.kind in ("port", "note"):
        return _column(node, x, y)
    size = style.SIGN if is_sign(node) else style.TEXT
    first = y - 15.0 * (len(node.lines) - 1) / 2
    return tuple(
        Text(line, x, first + 15.0 * place + size * 0.33, size, "middle") for place, line in enumerate(node.lines)
    )


def _column(node: PictureNode, x: float, y: float) -> tuple[Text, ...]:
    shapes = node.shapes or ((),) * len(node.lines)
    first = y - LINE * (len(node.lines) - 1) / 2
    if node.kind == "note":
        return tuple(
            Text(line, x, first + LINE * i + BASE, style.LEGEND, "middle") for i, line in enumerate(node.lines)
        )
    rows = enumerate(zip(node.lines, shapes, strict=True))
    return tuple(text for i, (line, shape) in rows for text in named_texts(line, shape, x, first + LINE * i, "middle"))


@dataclass
class Part:
    """A node and what is at its sides, seen from its middle."""

    node: PictureNode
    width: float
    height: float
    nodes: dict[str, PlacedNode] = field(default_factory=dict)
    edges: dict[int, PlacedEdge] = field(default_factory=dict)

    @property
    def box(self) -> Box:
        """What all of it takes."""
        boxes = [box for placed in self.nodes.values() for box in placed.boxes]
        boxes += [text.box for placed in self.nodes.values() for text in placed.texts]
        boxes += [text.box for placed in self.edges.values() for text in placed.texts]
        return around(boxes)

    @property
    def has_left(self) -> bool:
        """Whether something stands at its left."""
        return self.box.left < -self.width / 2 - 1

    @property
    def has_right(self) -> bool:
        """Whether something stands at its right."""
        return self.box.right > self.width / 2 + 1


@dataclass(frozen=True)
class _Row:
    """An arrow at a node's side: its edge, the node at its far end and which line of that it belongs to.

    Behind a node that is no port follow `then`, and what else that node reads `waits` below the arrow.
    """

    at: int
    edge: PictureEdge
    other: PictureNode
    line: int
    then: tuple[_Row, ...] = ()
    waits: tuple[_Row, ...] = ()

    @property
    def height(self) -> float:
        """How high the node behind the arrow is."""
        own = node_size(self.other)[1]
        return max(own, sum(row.pitch for row in self.waits) + LINE + 6) if self.waits else own

    @property
    def top(self) -> float:
        """How far above the arrow the node behind it begins: where others wait below, the arrow enters at its top."""
        return LINE / 2 + 3 if self.waits else self.height / 2

    @property
    def above(self) -> float:
        """The room that it takes above the arrow."""
        if self.other.kind == "port":
            return LABELLED if self.edge.label else LINE / 2
        return max(COLLECTIVE / 2, self.top + 3, self.then[0].above if self._goes_on else self._spread / 2)

    @property
    def below(self) -> float:
        """The room that it takes below the arrow."""
        if self.other.kind == "port":
            return LINE / 2
        behind = self.then[0].below if self._goes_on else self._spread / 2
        return max(COLLECTIVE / 2, self.height - self.top + 3, behind)

    @property
    def pitch(self) -> float:
        """The room that it takes from line to line."""
        return self.above + self.below

    @property
    def _goes_on(self) -> bool:
        """Whether one arrow goes on behind the node, level with this one."""
        return len(self.then) == 1 and not self.waits

    @property
    def _spread(self) -> float:
        return sum(row.pitch for row in self.then)

    def start(self, y: float) -> float:
        """Where the room of what follows the node begins, if the arrow runs at `y`."""
        return y - self.then[0].above if self._goes_on else y - self.top + (self.height - self._spread) / 2


class Sides:
    """Who lies at whose side in a picture."""

    def __init__(self, picture: Picture) -> None:
        self.nodes = {node.id: node for node in picture.nodes}
        self.into: defaultdict[str, list[tuple[int, PictureEdge]]] = defaultdict(list)
        self.out_of: defaultdict[str, list[tuple[int, PictureEdge]]] = defaultdict(list)
        for at, edge in enumerate(picture.edges):
            self.into[edge.target].append((at, edge))
            self.out_of[edge.source].append((at, edge))
        beside = picture.direction == "TB"
        #: Nodes that are part of another one.
        self.aside: set[str] = {n.id for n in picture.nodes if beside and n.beside and n.beside[0] in self.nodes}
        for node in picture.nodes if beside else ():
            if self._is_tail(node) and self.nodes[self._read(node)[0].source].kind in ("operator", "sign"):
                self._put_aside(node.id)

    def _read(self, node: PictureNode) -> list[PictureEdge]:
        """The edges into a node, but for those from ports that wait beside it."""
        return [edge for _, edge in self.into[node.id] if self.nodes[edge.source].beside != (node.id, "left")]

    def _is_tail(self, node: PictureNode) -> bool:
        """Whether a node belongs to one gradient of a parameter alone: a collective, an update, nothing behind them."""
        read, out = self._read(node), [edge.target for _, edge in self.out_of[node.id]]
        return (
            (node.kind == "collective" or (node.kind in ("operator", "sign") and node.phase == UPDATE))
            and len(node.ranks) < 2
            and len(read) == 1
            and read[0].of_parameter
            and bool(out)
            and all(self._is_end(self.nodes[id], node) or self._is_tail(self.nodes[id]) for id in out)
        )

    def _is_end(self, node: PictureNode, owner: PictureNode) -> bool:
        """Whether a node is a port of what leaves `owner` for good."""
        return node.kind == "port" and all(edge.source == owner.id for _, edge in self.into[node.id])

    def _put_aside(self, id: str) -> None:
        self.aside.add(id)
        for _, edge in self.out_of[id]:
            self._put_aside(edge.target)

    def part(self, node: PictureNode, ins: int, outs: int, *, down: bool) -> Part:
        """The node with its sides; so wide that `ins` and `outs` arrows find room at it."""
        width, height = node_size(node)
        left, right = self._left(node), self._right(node)
        if node.kind not in ("port", "junction", "stub"):
            if max(ins, outs) > 3:
                room = 14.0 * max(ins, outs) + 6
                width, height = (max(width, room), height) if down else (width, max(height, room))
            sides = [rows for rows in (left, right) if len(rows) > 1]
            height = max([height, *(sum(row.pitch for row in rows) + 4 for rows in sides)])
        part = Part(node, width, height)
        box = Box(-width / 2, -height / 2, width / 2, height / 2)
        part.nodes[node.id] = PlacedNode((box,), node_texts(node))
        _stand(part, left, -width / 2, -1, _first(left))
        _stand(part, right, width / 2, 1, _first(right))
        for at, edge in self.out_of[node.id]:
            if edge.target == node.id:
                _loop(part, at, edge)
        return part

    def _left(self, node: PictureNode) -> list[_Row]:
        return [
            _Row(at, edge, self.nodes[edge.source], edge.row or 0)
            for at, edge in self.into[node.id]
            if edge.source in self.aside and self.nodes[edge.source].kind == "port"
        ]

    def _right(self, node: PictureNode) -> list[_Row]:
        found = []
        for at, edge in self.out_of[node.id]:
            other = self.nodes[edge.target]
            if edge.target not in self.aside or (other.beside and other.beside[0] != node.id):
                continue
            inner = other.kind != "port"
            then, waits = (self._right(other), self._left(other)) if inner else ([], [])
            found.append(_Row(at, edge, other, edge.row or 0, tuple(then), tuple(waits)))
        return found


def _first(rows: Sequence[_Row]) -> float:
    """Where the room of rows begins, around a node's middle; a single arrow is level with it, whatever waits below."""
    return -rows[0].above if len(rows) == 1 and rows[0].waits else -sum(row.pitch for row in rows) / 2


def _stand(part: Part, rows: Sequence[_Row], edge: float, way: int, y: float) -> None:
    """Places rows, from `y` on, at one side of a node with its border at `edge`: way −1 to the left, 1 to the right."""
    for row in rows:
        _row(part, row, edge, y + row.above, way)
        y += row.pitch


def _loop(part: Part, at: int, edge: PictureEdge) -> None:
    """An edge from a node to itself, at the right of all that stands there."""
    border, far = part.width / 2, part.box.right + ARROW / 2
    points = (Point(border, -4), Point(far, -4), Point(far, 4), Point(border, 4))
    part.edges[at] = PlacedEdge(points, named_texts(edge.label, edge.shape_label, far + GAP, 0))


def _row(part: Part, row: _Row, edge: float, y: float, way: int) -> None:
    wide = named(row.edge.label, row.edge.shape_label)[0]
    length = max(ARROW, wide + 2 * AROUND + 8) if wide else ARROW
    if row.waits:
        length = max(length, ARROW + 3 * GAP + max(_text_width(each) for each in row.waits))
    far = edge + way * length
    texts = named_texts(row.edge.label, row.edge.shape_label, (edge + far) / 2 - 4, y - 9, "middle")
    ends = (Point(edge, y), Point(far, y))
    part.edges[row.at] = PlacedEdge(ends if way > 0 else ends[::-1], texts)
    if row.other.kind != "port":
        box = Box(far, y - row.top, far + node_size(row.other)[0], y - row.top + row.height)
        part.nodes[row.other.id] = PlacedNode((box,), node_texts(row.other, *box.center))
        _stand(part, row.then, box.right, 1, row.start(y))
        _stand(part, row.waits, box.left, -1, y + LINE / 2)
        return
    shapes = row.other.shapes or ((),) * len(row.other.lines)
    name, shape = row.other.lines[row.line], shapes[row.line]
    written = named_texts(name, shape, far + way * GAP, y, "start" if way > 0 else "end")
    old = part.nodes.get(row.other.id, PlacedNode(()))
    texts = (*old.texts, *written)
    part.nodes[row.other.id] = PlacedNode((around(text.box for text in texts),), texts)


def _text_width(row: _Row) -> float:
    """The width of what a port says in a row's line."""
    shapes = row.other.shapes or ((),) * len(row.other.lines)
    return named(row.other.lines[row.line], shapes[row.line])[0]
