"""From a laid-out picture to SVG: shapes, lines and text in the styles of the one table, and nothing else.

The ids of nodes and edges are `n` and `e` + their position in the picture; their classes say kind, phase and role.
Every string is escaped; no script, link, style sheet or reference is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from graphir.drawing import style
from graphir.drawing.layout import Drawing, lay_out
from graphir.drawing.layout.geometry import Box, PlacedEdge, PlacedEntry, PlacedFrame, PlacedNode, Point, Text
from graphir.drawing.layout.text import SCRIPT, SHIFT, label_width, text_width
from graphir.drawing.picture import Picture, PictureEdge, PictureNode
from graphir.drawing.svg import SVG_SPACE, printable

#: Around the drawing, in points; the radius of an edge's corners; an arrow tip's length and half its width.
MARGIN, ROUND = 14.0, 7.0
_TIP, _HALF = 8.0, 3.2
_TILDE, _SPACING_TILDE = "\u0303", "\u02dc"
#: A tilde of its own over a tall letter stands this much higher than beside one, in type sizes.
_LIFT, _LOW = 0.19, "γ"
_WEIGHTS = {"bold": ' font-weight="bold"', "italic": ' font-style="italic"'}


def paint(picture: Picture, drawing: Drawing | None = None) -> bytes:
    """The picture as an SVG file; `drawing` is its layout, if it has been made already."""
    drawing = drawing or lay_out(picture)
    box = drawing.box.grown(MARGIN)
    wide, high = box.right - box.left, box.bottom - box.top
    forks = {node.id for node in picture.nodes if node.kind == "junction"}
    parts = [
        f'<svg xmlns="{SVG_SPACE}" width="{wide:.0f}pt" height="{high:.0f}pt" '
        f'viewBox="{box.left:.1f} {box.top:.1f} {wide:.1f} {high:.1f}" font-family="{style.FONTS}" '
        # Ink needs paper, on whatever page a file is shown; what takes it into a page of its own has paper there.
        'style="background: white">',
        f"<title>{_safe(picture.title)}</title>" if picture.title else "",
        *map(_frame, drawing.frames),
        *(
            _edge(at, edge, drawing.edges[at], picture.detailed, edge.target in forks)
            for at, edge in enumerate(picture.edges)
            if at in drawing.edges
        ),
        *(_node(at, node, drawing.nodes[node.id]) for at, node in enumerate(picture.nodes) if node.id in drawing.nodes),
        *(_text(text) for text in drawing.texts),
        *map(_entry, drawing.legend),
        "</svg>",
    ]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{printable(chr(10).join(filter(None, parts)))}\n'.encode()


def _safe(text: str) -> str:
    return escape(text, quote=True)


# -- nodes ------------------------------------------------------------------------------------------------


def _node(at: int, node: PictureNode, placed: PlacedNode) -> str:
    """A group with the node's shape and texts, and its tooltip."""
    tooltip = node_tooltip(node)
    classes = " ".join(("node", node.kind, node.phase))
    title = f"<title>{_safe(tooltip)}</title>" if tooltip else ""
    shapes = "".join(_shape(node, box) for box in placed.boxes)
    border = node_colours(node)[0]
    links = "".join(_link(points, border) for points in placed.links)
    return f'<g id="n{at}" class="{classes}">{title}{links}{shapes}{"".join(map(_text, placed.texts))}</g>'


def node_tooltip(node: PictureNode) -> str:
    """What a reader may ask of a node, a line for each: types, formula, partner, place in the program, reason."""
    details = node.details
    lines = [", ".join(details.types), details.formula, details.of and f"backward of {details.of}"]
    return "\n".join(line for line in [*lines, details.at, details.why and f"inserted: {details.why}"] if line)


def node_colours(node: PictureNode) -> tuple[str, str]:
    """The border and fill of a node: those of its pass, of a collective those of its axis."""
    look = style.NODES[node.kind]
    if node.kind in ("sign", "operator", "block"):
        return {"backward": style.BACKWARD, "update": style.UPDATE}.get(node.phase, (look.border, look.fill))
    if node.kind == "collective" and node.axes:
        return style.AXES.get(node.axes[0], (look.border, look.fill))
    return look.border, look.fill


def _shape(node: PictureNode, box: Box) -> str:
    border, fill = node_colours(node)
    if node.kind in ("port", "note"):
        # Unseen, so that a pointer finds the node between its letters.
        return _rect(box, "none", "none", 0)
    if node.kind == "junction":
        x, y = box.center
        return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="2" ry="2" fill="{border}"/>'
    look = style.NODES[node.kind]
    round_by = (box.bottom - box.top) / 2 if node.kind == "sign" else 8.0 if look.rounded else 0.0
    if node.kind == "sign":
        round_by = min(round_by, 11.0)
    drawn = _rect(box, border, fill, look.width, round_by)
    if look.frames > 1:
        drawn += _rect(box.grown(-2.6), border, "none", look.width * 0.7)
    return drawn


def _rect(box: Box, border: str, fill: str, width: float, round_by: float = 0.0, extra: str = "") -> str:
    corner = f' rx="{round_by:g}"' if round_by else ""
    return (
        f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.right - box.left:.1f}" '
        f'height="{box.bottom - box.top:.1f}"{corner} fill="{fill}" stroke="{border}" stroke-width="{width:g}"{extra}/>'
    )


def _link(points: Sequence[Point], color: str) -> str:
    """The double line that joins the boxes of one collective."""
    return _double(points, color, 1.2)


def _double(points: Sequence[Point], color: str, width: float) -> str:
    """Two lines beside each other along `points`: whatever lies behind them is seen between, by day and by night."""
    way = " ".join(_way(_aside(points, side * (width + 2.0) / 2)) for side in (-1, 1))
    return f'<path d="{way}" fill="none" stroke="{color}" stroke-width="{width:g}"/>'


def _aside(points: Sequence[Point], by: float) -> list[Point]:
    """A way that runs `by` to the right of the one along `points`, as far from each of its pieces."""
    found = []
    for place, point in enumerate(points):
        pieces = [(points[at], points[at + 1]) for at in (place - 1, place) if 0 <= at < len(points) - 1]
        sides = [
            ((start.y - end.y) / far, (end.x - start.x) / far)
            for start, end in pieces
            if (far := math.dist(start, end))
        ] or [(0.0, 0.0)]
        x, y = (sum(side[i] for side in sides) for i in (0, 1))
        # Where two pieces meet, the corner is as far from both.
        stretch = len(sides) / (x * x + y * y or 1.0)
        found.append(Point(point.x + x * by * stretch, point.y + y * by * stretch))
    return found


def _frame(frame: PlacedFrame) -> str:
    color, line = style.CLUSTERS[frame.kind]
    dash = ' stroke-dasharray="5 3"' if line == "dashed" else ""
    texts = "".join(map(_text, frame.texts))
    return f'<g class="frame {frame.kind}">{_rect(frame.box, color, "none", 1, 9, dash)}{texts}</g>'


# -- edges ------------------------------------------------------------------------------------------------


def _edge(at: int, edge: PictureEdge, placed: PlacedEdge, detailed: bool, forks: bool) -> str:
    """A group with an edge's line and tip, which it has none of if it goes on behind a fork, and its texts."""
    look = style.EDGES[style.edge_style(edge.role, edge.of_parameter, detailed)]
    tip = "none" if forks else look.tip
    title = f"<title>{_safe(f'{edge.tensor} {edge.shape}'.strip())}</title>"
    lines = _line(placed.points, look, tip)
    return f'<g id="e{at}" class="edge {_safe(edge.role)}">{title}{lines}{"".join(map(_text, placed.texts))}</g>'


def _line(points: Sequence[Point], look: style.EdgeStyle, tip: str) -> str:
    """The line along `points` and its tip."""
    if len(points) < 2:
        return ""
    length = {"none": 0.0, "vee": 1.0}.get(tip, _TIP)
    way = [*points[:-1], _before(points[-2], points[-1], length)]
    dash = ' stroke-dasharray="5 3"' if look.line == "dashed" else ""
    if look.double:
        line = _double(way, look.color, look.width)
    else:
        line = f'<path d="{_way(way)}" fill="none" stroke="{look.color}" stroke-width="{look.width:g}"{dash}/>'
    return line + _tip(points[-2], points[-1], look, tip)


def _before(start: Point, end: Point, by: float) -> Point:
    distance = math.hypot(end.x - start.x, end.y - start.y) or 1.0
    return Point(end.x - (end.x - start.x) * by / distance, end.y - (end.y - start.y) * by / distance)


def _tip(start: Point, end: Point, look: style.EdgeStyle, tip: str) -> str:
    if tip == "none":
        return ""
    distance = math.hypot(end.x - start.x, end.y - start.y) or 1.0
    dx, dy = (end.x - start.x) / distance, (end.y - start.y) / distance
    half = _HALF + look.width * 0.35

    def at(back: float, aside: float) -> str:
        return f"{end.x - dx * back - dy * aside:.1f},{end.y - dy * back + dx * aside:.1f}"

    if tip == "vee":
        return (
            f'<path d="M{at(_TIP, half)} L{end.x:.1f},{end.y:.1f} L{at(_TIP, -half)}" fill="none" '
            f'stroke="{look.color}" stroke-width="{look.width:g}"/>'
        )
    corners = {"diamond": (at(_TIP / 2, half), at(_TIP, 0), at(_TIP / 2, -half))}.get(
        tip, (at(_TIP, half), at(_TIP, -half))
    )
    fill = "white" if tip == "empty" else look.color
    return (
        f'<polygon points="{end.x:.1f},{end.y:.1f} {" ".join(corners)}" fill="{fill}" stroke="{look.color}" '
        f'stroke-width="0.8"/>'
    )


def _way(points: Sequence[Point]) -> str:
    """A path along the points, with round corners."""
    parts = [f"M{points[0].x:.1f},{points[0].y:.1f}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        room = min(math.dist(before, corner), math.dist(corner, after)) / 2
        near, far = _before(before, corner, min(ROUND, room)), _before(after, corner, min(ROUND, room))
        parts.append(f"L{near.x:.1f},{near.y:.1f} Q{corner.x:.1f},{corner.y:.1f} {far.x:.1f},{far.y:.1f}")
    parts.append(f"L{points[-1].x:.1f},{points[-1].y:.1f}")
    return " ".join(parts)


# -- text -------------------------------------------------------------------------------------------------


def _text(text: Text) -> str:
    """A line of text, a span for each run; scripts are lowered by dy, which every viewer understands.

    It is as long as it was measured: a viewer without a font of Times' widths sets a wider one closer. A tilde is a
    text of its own, over the middle of its letter: not every font knows where a combining one belongs, and one that
    moved the line on and back would have its own width, not Times', in between.
    """
    spans, tildes, level = [], [], 0.0
    long = label_width(text.label, text.size)
    end = text.x - {"start": 0.0, "middle": long / 2, "end": long}[text.anchor]
    for run in text.label:
        size = text.size * (SCRIPT if run.form in ("sub", "sup", "small") else 1)
        wanted = SHIFT.get(run.form, 0.0) * text.size
        face = _WEIGHTS.get(run.form, "")
        look = f'{face} font-size="{size:g}"' if size != text.size else face
        letters = run.text.replace(_TILDE, "")
        spans.append(f"<tspan{_moved(wanted - level)}{look}>{_safe(letters)}</tspan>")
        level = wanted
        end += label_width((run,), text.size)
        if letters != run.text:
            middle = end - text_width(letters[-1:], run.form) * size / 2
            tildes.append(_tilde(letters[-1:], middle, text.y + level, size, face, text.color))
    fixed = f'textLength="{long:.1f}" lengthAdjust="spacingAndGlyphs" ' if long > 0 else ""
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" text-anchor="{text.anchor}" {fixed}font-size="{text.size:g}" '
        f'fill="{text.color}" xml:space="preserve">{"".join(spans)}</text>{"".join(tildes)}'
    )


def _tilde(letter: str, x: float, y: float, size: float, face: str, color: str) -> str:
    """A tilde over a letter whose middle is at `x`, on the line at `y`."""
    y -= 0.0 if letter in _LOW else _LIFT * size
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="{size:g}" fill="{color}">'
        f"<tspan{face}>{_SPACING_TILDE}</tspan></text>"
    )


def _moved(dy: float) -> str:
    return f' dy="{dy:.2f}"' if abs(dy) > 0.005 else ""


# -- legend -----------------------------------------------------------------------------------------------


def _entry(placed: PlacedEntry) -> str:
    box, entry = placed.swatch, placed.entry
    middle = box.center.y
    if entry.kind == "edge":
        look = style.EDGES[entry.style]
        drawn = _line((Point(box.left, middle), Point(box.right, middle)), look, look.tip)
    else:
        border, fill = style.swatch(entry.style)
        drawn = _rect(Box(box.left, box.top, box.right, box.bottom), border, fill, 1.2)
    return f'<g class="legend">{drawn}{_text(placed.text)}</g>'
