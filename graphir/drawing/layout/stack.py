"""Many layers below each other: each a band of its own, laid out once for all that are alike, and stacked.

A picture whose layers stand for themselves falls into bands: what comes before the layers, each layer, what comes
behind them. What leads from one band to the next is cut where they meet, at *stubs*, and joined there again; what leads
farther runs down at the outside. So a model of a hundred layers takes little more than one of three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

from graphir.drawing.layout.channels import TRACK, assign_tracks
from graphir.drawing.layout.flow import flow
from graphir.drawing.layout.geometry import Box, Drawing, PlacedEdge, PlacedFrame, PlacedNode, Point, joined
from graphir.drawing.picture import Cluster, Picture, PictureNode
from graphir.ir.graph import BACKWARD

#: So many layers are a stack.
LEAST = 3
#: Between two bands, beside the tracks; between what runs at the outside.
_BETWEEN, _OUTSIDE = 12.0, 12.0
_STUB = "stub"


def is_stack(picture: Picture) -> bool:
    """Whether a picture shows several layers, each for itself, that all follow one another."""
    if picture.direction != "TB" or sum(each.kind == "layer" for each in picture.clusters) < LEAST:
        return False
    band = _bands(picture)
    return all(
        band[edge.target] <= band[edge.source] if edge.back else band[edge.source] <= band[edge.target]
        for edge in picture.edges
    )


def stack(picture: Picture) -> Drawing:
    """The picture laid out, band by band."""
    return _Stack(picture).drawing()


@dataclass(frozen=True)
class _Band:
    """What lies between two cuts, as a picture; `places` are its edges' places in the whole one."""

    picture: Picture
    places: list[int]
    number: int


@dataclass(frozen=True)
class _PlacedBand:
    """A band laid out: what it holds, and of each edge that leaves it the piece in it and where that ends."""

    drawing: Drawing
    pieces: dict[int, PlacedEdge]
    stubs: dict[int, float]

    @property
    def box(self) -> Box:
        """What all of it takes."""
        return joined(self.drawing, Drawing({}, self.pieces)).box

    def shifted(self, dx: float, dy: float) -> _PlacedBand:
        """The band elsewhere."""
        pieces = {at: piece.shifted(dx, dy) for at, piece in self.pieces.items()}
        return _PlacedBand(self.drawing.shifted(dx, dy), pieces, {at: x + dx for at, x in self.stubs.items()})


@dataclass(frozen=True, slots=True)
class _Cut:
    """An edge between bands: its place in the picture, the upper band and the lower one."""

    place: int
    upper: int
    lower: int


class _Stack:
    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        band_of = _bands(picture)
        bands = [(band_of[edge.source], band_of[edge.target]) for edge in picture.edges]
        self.cuts = [_Cut(at, min(ends), max(ends)) for at, ends in enumerate(bands) if ends[0] != ends[1]]
        nodes: defaultdict[int, list[PictureNode]] = defaultdict(list)
        places: defaultdict[int, list[int]] = defaultdict(list)
        levels: defaultdict[int, list[tuple[str, ...]]] = defaultdict(list)
        clusters: defaultdict[int, list[Cluster]] = defaultdict(list)
        for node in picture.nodes:
            nodes[band_of[node.id]].append(node)
        for at, ends in enumerate(bands):
            for number in dict.fromkeys(ends):
                places[number].append(at)
        for row in picture.levels:
            for number in sorted({band_of[id] for id in row}):
                levels[number].append(tuple(id for id in row if band_of[id] == number))
        layers = [each for each in picture.clusters if each.kind == "layer"]
        for number, cluster in enumerate(layers, start=1):
            own = tuple(id for id in cluster.nodes if band_of[id] == number)
            clusters[number].append(replace(cluster, nodes=own))
        self.bands = [
            self._band(number, nodes[number], places[number], levels[number], clusters[number])
            for number in range(max(band_of.values(), default=0) + 1)
        ]

    def _band(
        self,
        number: int,
        nodes: list[PictureNode],
        places: list[int],
        levels: list[tuple[str, ...]],
        clusters: list[Cluster],
    ) -> _Band:
        """A band as a picture: its nodes and edges, and a stub for each edge that leaves it."""
        inside = {node.id for node in nodes}
        edges = []
        stubs: list[PictureNode] = []
        for at in places:
            edge = self.picture.edges[at]
            if edge.source not in inside:
                stubs.append(PictureNode(f"{_STUB} {at}", (), _STUB, phase=_phase(nodes, edge.target)))
                # What is written of an edge stands where it begins.
                edge = replace(edge, source=stubs[-1].id, label=(), shape_label=())
            elif edge.target not in inside:
                stubs.append(PictureNode(f"{_STUB} {at}", (), _STUB, phase=_phase(nodes, edge.source)))
                edge = replace(edge, target=stubs[-1].id)
            edges.append(edge)
        part = replace(
            self.picture,
            nodes=(*nodes, *stubs), edges=tuple(edges), clusters=tuple(clusters), levels=tuple(levels), order=(),
        )  # fmt: skip
        return _Band(part, places, number)

    # -- places -----------------------------------------------------------------------------------------------

    def drawing(self) -> Drawing:
        """The bands, each below the one before, with what joins them."""
        known: dict[Hashable, tuple[_Band, Drawing]] = {}
        bands: list[_PlacedBand] = []
        for band in self.bands:
            signature = _signature(band.picture)
            if signature not in known:
                known[signature] = (band, flow(band.picture))
            placed = _renamed(*known[signature], band)
            bands.append(placed.shifted(self._alignment(bands[-1], placed) if bands else 0.0, 0.0))
        outside = self._outside(bands)
        y = 0.0
        tracks: dict[tuple[int, int], list[Point]] = {}
        for number, placed in enumerate(bands):
            bands[number] = placed.shifted(0.0, y)
            y += placed.box.bottom
            if number + 1 < len(bands):
                y += self._join(number, bands[number], bands[number + 1], outside, y, tracks)
        nodes = {id: node for band in bands for id, node in band.drawing.nodes.items()}
        edges = {at: edge for band in bands for at, edge in band.drawing.edges.items()}
        edges |= {cut.place: self._whole(cut, bands, tracks) for cut in self.cuts}
        drawing = Drawing(nodes, edges, tuple(frame for band in bands for frame in band.drawing.frames))
        return drawing.shifted(-drawing.box.left, 0.0)

    def _alignment(self, upper: _PlacedBand, lower: _PlacedBand) -> float:
        """How far a band has to move for the first edge into it to be straight."""
        both = [at for at in upper.stubs if at in lower.stubs]
        return upper.stubs[both[0]] - lower.stubs[both[0]] if both else 0.0

    def _outside(self, bands: list[_PlacedBand]) -> dict[int, float]:
        """Where edges that pass bands run: of the forward pass at the left of all, of the backward one at the right."""
        left, right = min(band.box.left for band in bands), max(band.box.right for band in bands)
        phases = {node.id: node.phase for node in self.picture.nodes}
        found: dict[int, float] = {}
        for cut in self.cuts:
            if cut.lower - cut.upper > 1:
                if phases[self.picture.edges[cut.place].source] == BACKWARD:
                    right += _OUTSIDE
                    found[cut.place] = right
                else:
                    left -= _OUTSIDE
                    found[cut.place] = left
        return found

    def _join(
        self,
        number: int,
        upper: _PlacedBand,
        lower: _PlacedBand,
        outside: dict[int, float],
        y: float,
        tracks: dict[tuple[int, int], list[Point]],
    ) -> float:
        """Joins what crosses from a band to the next, from `y` on; returns the room that it takes."""
        crossing = [cut for cut in self.cuts if number in (cut.upper, cut.lower - 1)]
        lines = []
        for cut in crossing:
            start = upper.stubs[cut.place] if cut.upper == number else outside[cut.place]
            end = lower.stubs[cut.place] if cut.lower == number + 1 else outside[cut.place]
            lines.append((start, end))
        found, count = assign_tracks(lines, [(None, None)] * len(lines))
        for cut, (start, end), track in zip(crossing, lines, found, strict=True):
            at = y + _BETWEEN / 2 + TRACK * max(track, 0)
            tracks[number, cut.place] = [Point(start, at), Point(end, at)]
        return _BETWEEN + TRACK * max(count - 1, 0)

    def _whole(self, cut: _Cut, bands: list[_PlacedBand], tracks: dict[tuple[int, int], list[Point]]) -> PlacedEdge:
        """An edge between bands from its pieces, in its own direction."""
        first, last = bands[cut.upper].pieces[cut.place], bands[cut.lower].pieces[cut.place]
        joint = [*tracks[cut.upper, cut.place]]
        if cut.lower - cut.upper > 1:
            joint += tracks[cut.lower - 1, cut.place]
        texts = first.texts or last.texts
        downwards = self.picture.edges[cut.place].source in bands[cut.upper].drawing.nodes
        if downwards:
            return PlacedEdge(_plain([*first.points, *joint, *last.points]), texts)
        return PlacedEdge(_plain([*last.points, *reversed(joint), *first.points]), texts)


def _phase(nodes: list[PictureNode], id: str) -> str:
    return next(node.phase for node in nodes if node.id == id)


def _bands(picture: Picture) -> dict[str, int]:
    """Per node the number of its band: 0 before the layers, then each layer, then what comes behind them."""
    layers = [each for each in picture.clusters if each.kind == "layer"]
    band = {id: number for number, each in enumerate(layers, start=1) for id in each.nodes}
    near: defaultdict[str, list[str]] = defaultdict(list)
    below: defaultdict[str, list[str]] = defaultdict(list)
    for edge in picture.edges:
        near[edge.source].append(edge.target)
        near[edge.target].append(edge.source)
        first, then = (edge.target, edge.source) if edge.back else (edge.source, edge.target)
        below[first].append(then)
    before = _leading_to(band, below, [node.id for node in picture.nodes])
    for node in picture.nodes:
        band.setdefault(node.id, 0 if node.id in before else len(layers) + 1)
    # A fork goes to the band that reads it, a port to the band of what it belongs to.
    for node in picture.nodes:
        others = {band[id] for id in below[node.id]} if node.kind == "junction" else set()
        if node.kind == "port":
            others = {band[id] for id in ([node.beside[0]] if node.beside else near[node.id])}
        if len(others) == 1:
            band[node.id] = others.pop()
    return band


def _leading_to(layers: dict[str, int], below: dict[str, list[str]], ids: list[str]) -> set[str]:
    """The nodes outside of the layers from which a way leads down into one."""
    above: defaultdict[str, list[str]] = defaultdict(list)
    for first, targets in below.items():
        for then in targets:
            above[then].append(first)
    queue = [id for layer in layers for id in above[layer] if id not in layers]
    found = set(queue)
    while queue:
        new = [id for id in above[queue.pop()] if id not in found and id not in layers]
        found.update(new)
        queue += new
    return found.intersection(ids)


def _signature(picture: Picture) -> Hashable:
    """What is the same of bands that look alike, whatever their nodes are called."""
    at = {node.id: place for place, node in enumerate(picture.nodes)}
    return (
        tuple(
            (n.kind, n.lines, n.shapes, n.phase, n.axes, n.beside and (at[n.beside[0]], n.beside[1]))
            for n in picture.nodes
        ),
        tuple(
            (at[e.source], at[e.target], e.role, e.label, e.shape_label, e.of_parameter, e.row, e.weight, e.back)
            for e in picture.edges
        ),
        tuple(tuple(at[id] for id in row) for row in picture.levels),
        tuple((each.kind, bool(each.label), tuple(at[id] for id in each.nodes)) for each in picture.clusters),
    )


def _renamed(like: _Band, drawn: Drawing, band: _Band) -> _PlacedBand:
    """The drawing of a band that looks like `band`, as that one's."""
    theirs = [drawn.nodes[node.id] for node in like.picture.nodes]
    nodes: dict[str, PlacedNode] = {}
    edges: dict[int, PlacedEdge] = {}
    pieces: dict[int, PlacedEdge] = {}
    stubs: dict[int, float] = {}
    for node, placed in zip(band.picture.nodes, theirs, strict=True):
        if node.kind == _STUB:
            stubs[int(node.id.removeprefix(_STUB))] = placed.boxes[0].center.x
        else:
            nodes[node.id] = placed
    for place, edge in drawn.edges.items():
        at = band.places[place]
        (pieces if at in stubs else edges)[at] = edge
    frames = (
        replace(frame, texts=tuple(text._replace(label=cluster.label) for text in frame.texts))
        for frame, cluster in zip(drawn.frames, band.picture.clusters, strict=True)
    )
    return _PlacedBand(Drawing(nodes, edges, tuple[PlacedFrame, ...](frames)), pieces, stubs)


def _plain(points: list[Point]) -> tuple[Point, ...]:
    """The corners of a way, without those that lie on a straight piece of it."""
    return tuple(_corners(points))


def _corners(points: list[Point]) -> Iterator[Point]:
    for place, point in enumerate(points):
        if 0 < place < len(points) - 1:
            a, b = points[place - 1], points[place + 1]
            if (abs(a.x - point.x) < 0.5 and abs(b.x - point.x) < 0.5) or point == a:
                continue
        yield point
