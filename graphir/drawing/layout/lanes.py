"""Ranks side by side: one rank's part of a picture laid out once, and repeated in a lane for each.

All ranks do the same, so they look the same: a lane each, level with the others, its title over its middle, the
residual stream and the bus of parameters' gradients inside of it. A collective has a box in every lane whose rank
meets in it, and a double line that joins them. What is written beside arrows stands in the first lane, and holds for
all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from graphir.drawing import style
from graphir.drawing.layout.flow import flow_twice
from graphir.drawing.layout.geometry import Box, Drawing, PlacedEdge, PlacedFrame, PlacedNode, Point, Text, around
from graphir.drawing.picture import Picture, PictureNode

#: Between two lanes, around what is in one, for its title; between the lines of collectives that pass under lanes.
_BETWEEN, _INSIDE, _TITLE, _LINE = 16.0, 10.0, 24.0, 8.0


def has_lanes(picture: Picture) -> bool:
    """Whether the picture shows ranks beside each other, each like the others."""
    ranks = _ranks(picture)
    return len(ranks) > 1 and len({frozenset(_base(n.id) for n in _of(picture, rank)) for rank in ranks}) == 1


def lanes(picture: Picture) -> Drawing:
    """The picture laid out, a lane for each rank."""
    return _Lanes(picture).drawing()


def _ranks(picture: Picture) -> list[int]:
    return sorted({rank for node in picture.nodes for rank in node.ranks})


def _of(picture: Picture, rank: int) -> list[PictureNode]:
    """A rank's nodes, its title left out."""
    return [node for node in picture.nodes if rank in node.ranks and node.kind != "note"]


def _base(id: str) -> str:
    """What a rank's node is called on any rank."""
    return id.rpartition(" @")[0]


class _Lanes:
    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.ranks = _ranks(picture)
        self.nodes = {node.id: node for node in picture.nodes}
        first = self._lane_of(self.ranks[0])
        apart = [node.id for node in first.nodes if node.kind == "collective" and not _adjoin(node.ranks)]
        #: Lines that join boxes past other lanes run below them, each at a height of its own.
        room = {id: _LINE * (self._most_apart(id) + 1) for id in apart}
        full, bare = flow_twice(first, room)
        self.template, self.room = first, max(room.values(), default=0.0)
        self.drawings = [full, *[bare] * (len(self.ranks) - 1)]
        if not any(edge.of_parameter for edge in picture.edges):
            # The residual stream at the outer side of the last lane, as of the first, is crossed by nothing there.
            self.drawings[-1] = bare.mirrored()

    def _lane_of(self, rank: int) -> Picture:
        """What the first rank's lane shows, as a picture of its own."""
        nodes = {node.id: node for node in _of(self.picture, rank)}
        edges = [e for e in self.picture.edges if e.source in nodes and e.target in nodes]
        for edge in edges:
            if nodes[edge.source].axes and nodes[edge.target].kind == "port" and edge.of_parameter:
                nodes[edge.target] = replace(nodes[edge.target], beside=(edge.source, "right"))
        return replace(
            self.picture,
            nodes=tuple(nodes.values()),
            edges=tuple(edges),
            clusters=(),
            levels=tuple(tuple(id for id in row if id in nodes) for row in self.picture.levels),
            order=tuple(pair for pair in self.picture.order if set(pair) <= nodes.keys()),
        )

    def _most_apart(self, id: str) -> int:
        """How many collectives of the same kind pass under one lane at most."""
        alike = [node.ranks for node in self.picture.nodes if _base(node.id) == _base(id)]
        return max(sum(min(ranks) < rank < max(ranks) for ranks in alike) for rank in self.ranks)

    # -- places -----------------------------------------------------------------------------------------------

    def drawing(self) -> Drawing:
        """All lanes, with their frames and titles."""
        left: list[float] = []
        at = 0.0
        high = max(drawing.box.bottom for drawing in self.drawings) + self.room
        for drawing in self.drawings:
            left.append(at + _INSIDE)
            at += drawing.box.right + 2 * _INSIDE + _BETWEEN
        moved = [drawing.shifted(x, _TITLE + _INSIDE) for drawing, x in zip(self.drawings, left, strict=True)]
        by_base: Mapping[int, dict[str, PlacedNode]] = {
            rank: {_base(id): node for id, node in drawing.nodes.items()}
            for rank, drawing in zip(self.ranks, moved, strict=True)
        }
        frames = {
            rank: Box(x - _INSIDE, _TITLE, x + drawing.box.right + _INSIDE, _TITLE + high + 2 * _INSIDE)
            for rank, x, drawing in zip(self.ranks, left, self.drawings, strict=True)
        }
        nodes = {node.id: self._node(node, by_base, frames) for node in self.picture.nodes}
        placed = [PlacedFrame("rank", box) for box in frames.values()]
        return Drawing(nodes, dict(self._edges(moved)), (*self._groups(frames), *placed))

    def _node(
        self, node: PictureNode, by_base: Mapping[int, Mapping[str, PlacedNode]], frames: Mapping[int, Box]
    ) -> PlacedNode:
        if node.kind == "note":
            middle = frames[node.ranks[0]].center.x
            text = Text(node.lines[0], middle, _TITLE - 8, style.LEGEND, "middle")
            return PlacedNode((text.box,), (text,))
        if node.kind == "port":
            return by_base[max(node.ranks)][_base(node.id)]
        each = [by_base[rank][_base(node.id)] for rank in node.ranks]
        boxes = [box for placed in each for box in placed.boxes]
        texts = tuple(text for placed in each for text in placed.texts)
        return PlacedNode(tuple(boxes), texts, tuple(self._links(node, boxes)))

    def _links(self, node: PictureNode, boxes: list[Box]) -> Iterator[tuple[Point, ...]]:
        """The lines that join a collective's boxes: straight from lane to lane, or below those that take no part."""
        if _adjoin(node.ranks):
            for a, b in pairwise(boxes):
                yield Point(a.right, a.center.y), Point(b.left, b.center.y)
            return
        alike = sorted(n.ranks for n in self.picture.nodes if _base(n.id) == _base(node.id))
        # Those that begin first run lowest: so each crosses those that begin inside of it once.
        deep = (len(alike) - alike.index(node.ranks)) * _LINE
        for a, b in pairwise(boxes):
            y = a.bottom + deep
            yield Point(a.center.x, a.bottom), Point(a.center.x, y), Point(b.center.x, y), Point(b.center.x, b.bottom)

    def _edges(self, moved: Iterable[Drawing]) -> Iterator[tuple[int, PlacedEdge]]:
        known = {
            (_base(edge.source), _base(edge.target), edge.tensor, edge.row): at
            for at, edge in enumerate(self.template.edges)
        }
        lane = dict(zip(self.ranks, moved, strict=True))
        for at, edge in enumerate(self.picture.edges):
            ends = (set(self.nodes[edge.source].ranks), set(self.nodes[edge.target].ranks))
            rank = max(ends[0] & ends[1])
            place = known[_base(edge.source), _base(edge.target), edge.tensor, edge.row]
            yield at, lane[rank].edges[place]

    def _groups(self, frames: Mapping[int, Box]) -> Iterator[PlacedFrame]:
        """Frames around the lanes of the groups that the picture has."""
        for cluster in self.picture.clusters:
            inside = {rank for child in cluster.clusters for id in child.nodes for rank in self.nodes[id].ranks}
            if inside:
                box = around(frames[rank] for rank in inside)
                yield PlacedFrame(cluster.kind, Box(box.left - 6, 0, box.right + 6, box.bottom + 6))


def _adjoin(ranks: tuple[int, ...]) -> bool:
    """Whether the ranks' lanes lie next to each other."""
    return all(b == a + 1 for a, b in pairwise(ranks))
