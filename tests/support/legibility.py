"""How legible a drawing is, measured in the SVG that a reader gets: what lies on what, and how often lines cross.

Whoever drew it: nodes and edges are found by their groups (`class="node …" id="n7"`, `class="edge …" id="e3"`), which
Graphviz writes as graphir's painter does; letters are measured with the widths of Times. A curve is followed in small
steps, a round corner by its corner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from xml.etree import ElementTree

from graphir.drawing.layout.geometry import Box, around
from graphir.drawing.layout.text import text_width
from graphir.drawing.picture import Picture

#: Type is no taller than this, in type sizes, above and below its line: ink, not the room that a font asks for.
_ABOVE, _BELOW = 0.66, 0.2
_STEPS = 12


@dataclass
class Legibility:
    """What is wrong with a drawing, each fault in words; `crossings` are the places where two lines cross."""

    labels_on_labels: list[str] = field(default_factory=list)
    labels_on_nodes: list[str] = field(default_factory=list)
    edges_through_nodes: list[str] = field(default_factory=list)
    edges_through_labels: list[str] = field(default_factory=list)
    #: Frames that neither hold each other nor stand apart, what a frame's line cuts, and what a frame wrongly holds.
    frames_on_frames: list[str] = field(default_factory=list)
    cut_by_frames: list[str] = field(default_factory=list)
    in_wrong_frames: list[str] = field(default_factory=list)
    crossings: set[tuple[int, int]] = field(default_factory=set)
    #: How far the label that is farthest from its edge is away from it, in points.
    distance: float = 0.0

    @property
    def faults(self) -> list[str]:
        """All that must not be."""
        return [
            *self.labels_on_labels, *self.labels_on_nodes, *self.edges_through_nodes, *self.edges_through_labels,
            *self.frames_on_frames, *self.cut_by_frames, *self.in_wrong_frames,
        ]  # fmt: skip


@dataclass
class _Label:
    owner: str
    text: str
    box: Box


def measure(svg: bytes, picture: Picture) -> Legibility:
    """The faults of a drawing of `picture`."""
    root = ElementTree.fromstring(svg)
    labels: list[_Label] = []
    shapes: dict[str, list[Box]] = {}
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    frames: list[Box] = []
    for owner, element in _owned(root, "", (0.0, 0.0)):
        kind = element.tag.rpartition("}")[2]
        shift = element.attrib.pop("shift-x", "0"), element.attrib.pop("shift-y", "0")
        dx, dy = float(shift[0]), float(shift[1])
        if kind == "text" and "".join(element.itertext()) == "\u02dc":
            continue  # An accent, which stands over its letter.
        if kind == "text":
            box = text_box(element)
            if box is not None:
                labels.append(_Label(owner, "".join(element.itertext()), box.shifted(dx, dy)))
        elif kind == "path" and owner[:1] in ("e", "n") and element.get("stroke", "none") not in ("none", "white"):
            lines.setdefault(owner, []).append([(x + dx, y + dy) for x, y in _middle(element.get("d", ""))])
        elif owner.startswith("frame") and kind == "rect":
            x, y, width, height = (float(element.get(name, "0")) for name in ("x", "y", "width", "height"))
            frames.append(Box(x + dx, y + dy, x + width + dx, y + height + dy))
        elif owner.startswith("n") and kind in ("rect", "ellipse", "polygon"):
            box = _shape_box(element)
            if box is not None and box.right - box.left > 6:
                shapes.setdefault(owner, []).append(box.shifted(dx, dy))
    found = Legibility()
    _overlaps(found, labels, shapes)
    _passes(found, picture, labels, shapes, lines)
    _frames(found, picture, frames, labels, shapes)
    _cross(found, lines)
    _apart(found, labels, lines)
    return found


def _owned(
    element: ElementTree.Element, owner: str, shift: tuple[float, float]
) -> Iterator[tuple[str, ElementTree.Element]]:
    """Every element with the id of the node or edge that it belongs to, "" of none."""
    classes = element.get("class", "").split()
    if classes[:1] in (["node"], ["edge"]):
        owner = element.get("id", "")
    elif classes[:1] in (["frame"], ["cluster"], ["graph"], ["legend"]):
        owner = "" if classes[0] == "graph" else f"{classes[0]} {id(element)}"
    found = re.findall(r"-?[\d.]+", element.get("transform", "").partition("translate")[2])
    if found:
        shift = shift[0] + float(found[0]), shift[1] + float(found[1])
    element.set("shift-x", str(shift[0]))
    element.set("shift-y", str(shift[1]))
    yield owner, element
    for child in element:
        yield from _owned(child, owner, shift)


# -- what there is ----------------------------------------------------------------------------------------


def text_box(element: ElementTree.Element) -> Box | None:
    size = float(element.get("font-size", "12"))
    spans = list(element) or [element]
    width = 0.0
    for span in spans:
        bold, slanted = span.get("font-weight"), span.get("font-style")
        form = "bold" if bold == "bold" else "italic" if slanted == "italic" else ""
        own = float(span.get("font-size", element.get("font-size", "12")))
        size = max(size, own) if span is not element else size
        width += float(span.get("dx", "0")) + text_width((span.text or "").replace("\u00a0", " "), form) * own
    if not "".join(element.itertext()).strip():
        return None
    left = float(element.get("x", "0")) - {"middle": width / 2, "end": width}.get(element.get("text-anchor", ""), 0.0)
    y = float(element.get("y", "0"))
    return Box(left, y - _ABOVE * size, left + width, y + _BELOW * size)


def _shape_box(element: ElementTree.Element) -> Box | None:
    number = {name: float(value) for name, value in element.attrib.items() if re.fullmatch(r"-?[\d.]+", value)}
    if element.get("fill", "none") in ("none", "transparent"):
        return None
    if "cx" in number:
        rx, ry = number["rx"], number["ry"]
        return Box(number["cx"] - rx, number["cy"] - ry, number["cx"] + rx, number["cy"] + ry)
    if "width" in number:
        x, y = number.get("x", 0.0), number.get("y", 0.0)
        return Box(x, y, x + number["width"], y + number["height"])
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", element.get("points", ""))
    return around(Box(float(x), float(y), float(x), float(y)) for x, y in points) if points else None


def _middle(text: str) -> list[tuple[float, ...]]:
    """The corners of a path; of two lines side by side those of the way between them."""
    ways = [_way(each) for each in re.findall("M[^M]*", text)]
    corners = zip(*ways, strict=True)
    return [tuple(sum(each) / len(ways) for each in zip(*corner, strict=True)) for corner in corners]


def _way(text: str) -> list[tuple[float, float]]:
    """The corners of a path; a curve in small steps, of a round corner its corner."""
    points: list[tuple[float, float]] = []
    for letter, rest in re.findall(r"([MLQC])([^MLQC]*)", text):
        numbers = list(map(float, re.findall(r"-?\d+(?:\.\d+)?", rest)))
        corners = list(zip(numbers[::2], numbers[1::2], strict=True))
        if letter == "Q":
            points.append(corners[0])
        elif letter == "C":
            for start in range(0, len(corners), 3):
                points += _curve(points[-1], *corners[start : start + 3])
        else:
            points += corners
    return points


def _curve(a, b, c, d):
    for step in range(1, _STEPS + 1):
        t = step / _STEPS
        u = 1 - t
        yield tuple(u**3 * a[i] + 3 * u * u * t * b[i] + 3 * u * t * t * c[i] + t**3 * d[i] for i in (0, 1))


# -- what lies on what ------------------------------------------------------------------------------------


def _meet(a: Box, b: Box, by: float) -> bool:
    """Whether two boxes share an area that is more than `by` wide and high."""
    wide, high = min(a.right, b.right) - max(a.left, b.left), min(a.bottom, b.bottom) - max(a.top, b.top)
    return wide > by and high > by


def _overlaps(found: Legibility, labels: list[_Label], shapes: dict[str, list[Box]]) -> None:
    ordered = sorted(labels, key=lambda label: label.box.top)
    for place, a in enumerate(ordered):
        for b in ordered[place + 1 :]:
            if b.box.top > a.box.bottom:
                break
            if _meet(a.box, b.box, 1.0):
                found.labels_on_labels.append(f"{a.text!r} lies on {b.text!r}")
    for label in labels:
        for owner, boxes in shapes.items():
            if owner != label.owner and any(_meet(label.box, box, 1.0) for box in boxes):
                found.labels_on_nodes.append(f"{label.text!r} lies on {owner}")


def _passes(found, picture, labels, shapes, lines) -> None:
    """Edges through nodes that are not their ends, and through labels."""
    at = {node.id: f"n{place}" for place, node in enumerate(picture.nodes)}
    for place, edge in enumerate(picture.edges):
        ends = {at[edge.source], at[edge.target]}
        for way in lines.get(f"e{place}", ()):
            box = around(Box(x, y, x, y) for x, y in way)
            for owner, boxes in shapes.items():
                if owner not in ends and any(_meet_line(way, box, each, -2.0) for each in boxes):
                    found.edges_through_nodes.append(f"{edge.tensor} passes through {owner}")
            for label in labels:
                if label.owner not in ends and _meet_line(way, box, label.box, -1.0):
                    found.edges_through_labels.append(f"{edge.tensor} passes through {label.text!r}")


def _frames(found, picture, frames, labels, shapes) -> None:
    """Frames on each other, through labels and nodes, and around nodes that are not theirs."""
    for a, b in combinations(frames, 2):
        if _meet(a, b, 0.0) and not _holds(a, b) and not _holds(b, a):
            found.frames_on_frames.append(f"frames at {a.left:.0f}, {a.top:.0f} and {b.left:.0f}, {b.top:.0f} overlap")
    things = [(repr(label.text), label.box) for label in labels]
    things += [(owner, box) for owner, boxes in shapes.items() for box in boxes]
    for frame in frames:
        cut = (what for what, box in things if _meet(frame, box, 0.5) and not _holds(frame, box))
        found.cut_by_frames += [f"a frame cuts {what}" for what in cut]
    if len(frames) == len(picture.clusters):
        for frame, cluster in zip(frames, picture.clusters, strict=True):
            for place, node in enumerate(picture.nodes):
                boxes = shapes.get(f"n{place}", [])
                inside = all(_holds(frame, box) for box in boxes)
                if boxes and inside and node.id not in cluster.nodes and node.kind not in ("port", "junction"):
                    found.in_wrong_frames.append(f"{node.id} stands in the frame of {cluster.id}")


def _holds(outer: Box, inner: Box) -> bool:
    """Whether a box lies in another; its border may be the other's."""
    return (
        outer.left <= inner.left and outer.top <= inner.top
        and inner.right <= outer.right and inner.bottom <= outer.bottom
    )  # fmt: skip


def _meet_line(way: list[tuple[float, float]], around_way: Box, box: Box, margin: float) -> bool:
    box = box.grown(margin)
    outside = around_way.right < box.left or around_way.left > box.right
    if outside or around_way.bottom < box.top or around_way.top > box.bottom:
        return False
    return any(_cuts(a, b, box) for a, b in pairwise(way))


def _cuts(a: tuple[float, float], b: tuple[float, float], box: Box) -> bool:
    """Whether a piece of a line has something inside of a box (Liang and Barsky's clipping)."""
    first, last = 0.0, 1.0
    for start, step, low, high in (
        (a[0], b[0] - a[0], box.left, box.right), (a[1], b[1] - a[1], box.top, box.bottom)
    ):  # fmt: skip
        if abs(step) < 1e-9:
            if not low < start < high:
                return False
            continue
        near, far = sorted(((low - start) / step, (high - start) / step))
        first, last = max(first, near), min(last, far)
    return last - first > 1e-6


def _cross(found: Legibility, lines: dict[str, list[list[tuple[float, float]]]]) -> None:
    """Places where pieces of two owners' lines cross; lines that share their way there cross others once."""
    ways = [(owner, way, around(Box(x, y, x, y) for x, y in way)) for owner, each in lines.items() for way in each]
    for (a, first, box_a), (b, second, box_b) in combinations(ways, 2):
        if a == b or box_a.right < box_b.left or box_b.right < box_a.left:
            continue
        if box_a.bottom < box_b.top or box_b.bottom < box_a.top:
            continue
        for p in _pieces_in(first, box_b):
            for q in _pieces_in(second, box_a):
                point = _crossing(*p, *q)
                if point is not None:
                    found.crossings.add((round(point[0] / 3), round(point[1] / 3)))


def _pieces_in(way: list[tuple[float, float]], box: Box) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The pieces of a line that come near a box."""
    return [
        (a, b) for a, b in pairwise(way)
        if min(a[0], b[0]) <= box.right and max(a[0], b[0]) >= box.left
        and min(a[1], b[1]) <= box.bottom and max(a[1], b[1]) >= box.top
    ]  # fmt: skip


def _crossing(a, b, c, d) -> tuple[float, float] | None:
    """Where two pieces cross, well inside of both; None where they touch, or lie on each other."""
    rx, ry, sx, sy = b[0] - a[0], b[1] - a[1], d[0] - c[0], d[1] - c[1]
    area = rx * sy - ry * sx
    if abs(area) < 1e-9 or abs(area) < 0.02 * math.hypot(rx, ry) * math.hypot(sx, sy):
        return None
    t = ((c[0] - a[0]) * sy - (c[1] - a[1]) * sx) / area
    u = ((c[0] - a[0]) * ry - (c[1] - a[1]) * rx) / area
    inside = all(
        0.5 < place * length < length - 0.5 for place, length in ((t, math.hypot(rx, ry)), (u, math.hypot(sx, sy)))
    )
    return (a[0] + t * rx, a[1] + t * ry) if inside else None


def _apart(found: Legibility, labels: Iterable[_Label], lines) -> None:
    """How far what is written of an edge, name and shape together, is from it."""
    away: dict[str, float] = {}
    for label in labels:
        if label.owner.startswith("e") and label.owner in lines:
            own = min(_distance(label.box, a, b) for way in lines[label.owner] for a, b in pairwise(way))
            away[label.owner] = min(away.get(label.owner, own), own)
    found.distance = max(away.values(), default=0.0)


def _distance(box: Box, a: tuple[float, float], b: tuple[float, float]) -> float:
    """How far a piece of a line is from a box."""
    if _cuts(a, b, box):
        return 0.0
    corners = [(x, y) for x in (box.left, box.right) for y in (box.top, box.bottom)]
    ends = (math.hypot(max(box.left - x, 0, x - box.right), max(box.top - y, 0, y - box.bottom)) for x, y in (a, b))
    return min(*ends, *(_from_line(corner, a, b) for corner in corners))


def _from_line(point: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    length = math.dist(a, b) ** 2 or 1.0
    t = ((point[0] - a[0]) * (b[0] - a[0]) + (point[1] - a[1]) * (b[1] - a[1])) / length
    t = min(max(t, 0.0), 1.0)
    return math.dist(point, (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
