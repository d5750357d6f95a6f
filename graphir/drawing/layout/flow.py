"""A picture, or a part of it, laid out in layers: from nodes and edges to items and links, and back to places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from graphir.drawing.layout.frames import Framed, framed
from graphir.drawing.layout.geometry import (
    Box,
    Drawing,
    PlacedEdge,
    PlacedNode,
    Point,
    Text,
    around,
)
from graphir.drawing.layout.layered import Margin, Placement, layered
from graphir.drawing.layout.parts import LINE, Part, Sides, named, named_texts
from graphir.drawing.layout.strip import Frame, Item, Link, Pin
from graphir.drawing.picture import Picture, PictureEdge, PictureNode
from graphir.ir.graph import BACKWARD

#: How far beside a node an arrow comes down that enters it from the side.
_BESIDE = 13.0
#: Around each row of a drawing from left to right.
_ROW = 4.0
#: Between an arrow and its label.
_AWAY = 5.0


def flow(picture: Picture) -> Drawing:
    """The picture laid out, from its upper left corner; without title and legend."""
    return _Flow(picture).drawings()[0]


def flow_twice(picture: Picture, margins: Mapping[str, float]) -> tuple[Drawing, Drawing]:
    """The picture laid out, and once more without labels, narrower; `margins` is room that nodes want behind them.

    Nodes are level in both.
    """
    full, bare = _Flow(picture, margins).drawings(bare=True)
    return full, bare


class _Flow:
    def __init__(self, picture: Picture, margins: Mapping[str, float] | None = None) -> None:
        self.picture, self.margins = picture, margins or {}
        self.down = picture.direction == "TB"
        self.sides = Sides(picture)
        own = [node for node in picture.nodes if node.id not in self.sides.aside]
        self.ids = [node.id for node in sorted(own, key=self._is_backward)]
        #: Whether the backward pass runs against the drawing's direction, beside the forward one.
        self.mirrored = any(edge.back for edge in picture.edges)
        self.number = {id: place for place, id in enumerate(self.ids)}
        edges = [
            (at, edge) for at, edge in enumerate(picture.edges)
            if edge.source in self.number and edge.target in self.number and edge.source != edge.target
        ]  # fmt: skip
        #: The forward pass comes first, and so lies at the left (or above).
        self.edges = sorted(edges, key=lambda pair: self.sides.nodes[pair[1].target].phase == BACKWARD)
        ends = [(edge.target, edge.source) if edge.back else (edge.source, edge.target) for _, edge in self.edges]
        ins, outs = Counter(then for _, then in ends), Counter(first for first, _ in ends)
        self.parts = [self.sides.part(self.sides.nodes[id], ins[id], outs[id], down=self.down) for id in self.ids]
        self.items = [self._item(part, ins[part.node.id], outs[part.node.id]) for part in self.parts]
        self.links = [
            self._link(edge, first, then) for (_, edge), (first, then) in zip(self.edges, ends, strict=True)
        ] + list(self._hints())
        self.frames = list(self._framed())

    def _is_backward(self, node: PictureNode) -> bool:
        """Whether a node belongs to the backward pass: a port does if all that it is joined to do."""
        if node.kind != "port":
            return node.phase == BACKWARD
        return all(self.sides.nodes[end].phase == BACKWARD for end in self._joined(node.id))

    # -- what is laid out -------------------------------------------------------------------------------------

    def _item(self, part: Part, ins: int, outs: int) -> Item:
        node, box = part.node, part.box
        backward = node.phase == BACKWARD
        if self.down:
            wide, high, along = part.width, part.height, 2 * max(-box.top, box.bottom)
            before, after = -box.left, box.right
        else:
            wide, high, along = part.height, part.width, part.width
            before = after = part.height / 2 + _ROW
        late, passing = backward and not self.mirrored, 1 if backward and self.mirrored else -1
        if node.kind == "stub":
            return Item(0.0, 0.0, 0.0, end=1 if ins else -1)
        if node.kind in ("junction", "port"):
            bus = node.kind == "junction" and bool(ins) and all(e.of_parameter for _, e in self.sides.into[node.id])
            return Item(before, after, along, late=late, bus=bus, passing=passing)
        depth = (along - high) / 2
        spread_in, spread_out = _spread(ins, wide, depth), _spread(outs, wide, depth)
        turned = backward and self.mirrored
        entered = outs if turned else ins
        if 1 < entered <= 3:
            beside = wide / 2 + _BESIDE
            pins = spread_out if turned else spread_in
            # From the side, and a second one from above, between the side and the middle.
            if not (self.down and part.has_left):
                pins, before = (Pin(-beside, along / 2), *pins), max(before, beside)
            if not (self.down and part.has_right):
                pins, after = (*pins, Pin(beside, along / 2)), max(after, beside)
            spread_in, spread_out = (spread_in, pins) if turned else (pins, spread_out)
        return Item(before, after, along, spread_in, spread_out, late, passing=passing * self.mirrored)

    def _link(self, edge: PictureEdge, first: str, then: str) -> Link:
        room = None
        wide = named(edge.label, edge.shape_label)[0]
        if wide:
            room = (2.0, wide + _AWAY, LINE) if self.down else (LINE + 1, 2.0, wide + 4 * _AWAY)
        return Link(self.number[first], self.number[then], edge.weight, room, at_end=edge.back)

    def _hints(self) -> Iterator[Link]:
        level = {id: place for place, row in enumerate(self.picture.levels) for id in row}
        for first, then in self.picture.order:
            both = first in self.number and then in self.number
            if both and (first not in level or level[first] != level.get(then)):
                yield Link(self.number[first], self.number[then], 0.5)

    def _framed(self) -> Iterator[Framed]:
        """What has a frame. Nothing is in two of them: a fork that serves another frame alone is no item of its own."""
        frame_of = {id: at for at, cluster in enumerate(self.picture.clusters) for id in cluster.nodes}
        serves = {id: self._served(id, frame_of) for id in self.ids}
        for at, cluster in enumerate(self.picture.clusters):
            own = [id for id in cluster.nodes if id in self.number and serves[id] in (None, at)]
            if own:
                guests = [id for id in self.ids if serves[id] == at and frame_of.get(id) != at]
                numbers = ([self.number[id] for id in each] for each in (own, guests))
                yield framed(cluster, *numbers, down=self.down)

    def _served(self, id: str, frame_of: Mapping[str, int]) -> int | None:
        """The frame that a port, or a fork, serves and nothing else: where it stands in it, it belongs to it."""
        kind = self.sides.nodes[id].kind
        if kind not in ("port", "junction"):
            return None
        ends = self._joined(id) if kind == "port" else [edge.target for _, edge in self.sides.out_of[id]]
        served = {frame_of.get(end) for end in ends}
        return served.pop() if len(served) == 1 else None

    def _joined(self, id: str) -> list[str]:
        """The other ends of a node's edges."""
        return [e.target for _, e in self.sides.out_of[id]] + [e.source for _, e in self.sides.into[id]]

    def _levels(self) -> list[list[int]]:
        rows = [[self.number[id] for id in row if id in self.number] for row in self.picture.levels]
        return [row for row in rows if len(row) > 1]

    # -- what comes of it -------------------------------------------------------------------------------------

    def drawings(self, *, bare: bool = False) -> list[Drawing]:
        """Everything in its place; with `bare` once more, without labels."""
        found, crowded = self._draw(bare=bare)
        roomy: set[int] = set()
        while crowded - roomy:
            # Room for one title moves what is in another's way, so each frame is given it once.
            self.frames = [each.roomier() if at in crowded - roomy else each for at, each in enumerate(self.frames)]
            roomy |= crowded
            found, crowded = self._draw(bare=bare)
        top, left = min(each.box.top for each in found), [each.box.left for each in found]
        return [each.shifted(-x, -top) for each, x in zip(found, left, strict=True)]

    def _draw(self, *, bare: bool) -> tuple[list[Drawing], set[int]]:
        """Everything in its place; and which frames' titles have no room there."""
        margins = [Margin(each.inside.items, each.before, each.behind) for each in self.frames]
        margins += [Margin([self.number[id]], 0.0, room) for id, room in self.margins.items()]
        placements = layered(
            self.items, self.links, self._levels(), margins, [each.inside for each in self.frames], bare=bare
        )
        found = [self._drawing(placed, labels=not place) for place, placed in enumerate(placements)]
        return [drawing for drawing, _ in found], found[0][1]

    def _drawing(self, placed: Placement, *, labels: bool) -> tuple[Drawing, set[int]]:
        nodes: dict[str, PlacedNode] = {}
        edges: dict[int, PlacedEdge] = {}
        for number, part in enumerate(self.parts):
            x, y = self._point(*placed.items[number])
            nodes |= {id: node.shifted(x, y) for id, node in part.nodes.items()}
            edges |= {at: edge.shifted(x, y) for at, edge in part.edges.items()}
        for place, (at, edge) in enumerate(self.edges):
            edges[at] = self._edge(edge, place, placed, labels=labels)
        drawing = Drawing(nodes, edges)
        frames, crowded = [], set()
        for at, (frame, sides) in enumerate(zip(self.frames, placed.frames, strict=True)):
            box = self._held(frame.inside, placed, drawing)
            found, fits = frame.around(box, sides, drawing)
            frames.append(found)
            if not fits:
                crowded.add(at)
        return replace(drawing, frames=tuple(frames)), crowded

    def _held(self, frame: Frame, placed: Placement, drawing: Drawing) -> Box:
        """What all that a frame holds takes."""
        along = [placed.items[item][1] for item in frame.items]
        guests = [item for item in frame.guests if min(along) <= placed.items[item][1] <= max(along)]
        inside = {id for item in (*frame.items, *guests) for id in self.parts[item].nodes}
        boxes = [box for id in inside for box in drawing.nodes[id].boxes]
        boxes += [text.box for id in inside for text in drawing.nodes[id].texts]
        for at, edge in enumerate(self.picture.edges):
            if edge.source in inside and edge.target in inside and at in drawing.edges:
                boxes += [text.box for text in drawing.edges[at].texts]
                boxes += [Box(x, y, x, y) for x, y in drawing.edges[at].points]
        return around(boxes)

    def _point(self, across: float, along: float) -> Point:
        return Point(across, along) if self.down else Point(along, across)

    def _edge(self, edge: PictureEdge, place: int, placed: Placement, *, labels: bool) -> PlacedEdge:
        points = [self._point(*corner) for corner in placed.links[place]]
        if edge.back:
            points.reverse()
        points = [*self._to_border(edge.source, points[0], placed), *points]
        points = [*points, *self._to_border(edge.target, points[-1], placed)]
        texts: tuple[Text, ...] = ()
        if labels and place in placed.labels:
            x, y = self._point(*placed.labels[place])
            if self.down:
                texts = named_texts(edge.label, edge.shape_label, x + _AWAY, y)
            else:
                texts = named_texts(edge.label, edge.shape_label, x, y - LINE / 2 - 2, "middle")
        return PlacedEdge(tuple(points), texts)

    def _to_border(self, id: str, point: Point, placed: Placement) -> list[Point]:
        """The last corner of an edge that comes from the side of a node."""
        number = self.number[id]
        part = self.parts[number]
        if part.node.kind in ("port", "junction", "stub"):
            return []
        across, along = placed.items[number]
        own = point.x if self.down else point.y
        half = (part.width if self.down else part.height) / 2
        if abs(own - across) <= half + 1:
            return []
        return [self._point(across + half * (1 if own > across else -1), along)]


def _spread(count: int, wide: float, depth: float) -> tuple[Pin, ...]:
    """Pins along a node's side: one in the middle, up to three around it, more at equal distances."""
    if count < 2:
        return (Pin(0.0, depth),)
    if count <= 3:
        step = max(5.0, min(wide / 2 - 6, 14.0))
        return (Pin(-step, depth), Pin(0.0, depth), Pin(step, depth))
    step = min(14.0, (wide - 10) / (count - 1))
    return tuple(Pin((place - (count - 1) / 2) * step, depth) for place in range(count))
