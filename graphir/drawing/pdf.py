"""From an SVG as `paint` writes it to PDF, by matplotlib: the few shapes that a drawing has, and its text in STIX."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree import ElementTree

from graphir.drawing.layout.text import text_width
from graphir.drawing.svg import parse_svg

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def to_pdf(svg: bytes) -> bytes:
    """The drawing as a PDF of one page, as large as it."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    root = parse_svg(svg)
    left, top, wide, high = map(float, (root.get("viewBox") or "0 0 1 1").split())
    figure = Figure(figsize=(wide / 72, high / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, left + wide)
    axes.set_ylim(top + high, top)
    for element in root.iter():
        for artist in _artists(element):
            axes.add_artist(artist)
    FigureCanvasPdf(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _artists(element: ElementTree.Element) -> Iterator[Any]:
    """What matplotlib draws for one element, in order."""
    from matplotlib.patches import Ellipse, FancyBboxPatch, PathPatch
    from matplotlib.path import Path

    kind = element.tag.rpartition("}")[2]
    number = {name: float(value) for name, value in element.attrib.items() if _NUMBER.fullmatch(value)}
    look = _look(element, number)
    if kind == "rect" and (look["facecolor"] != "none" or look["edgecolor"] != "none"):
        round_by = number.get("rx", 0.0)
        style = f"round,pad=0,rounding_size={round_by}" if round_by else "square,pad=0"
        box = (number["x"], number["y"]), number["width"], number["height"]
        yield FancyBboxPatch(*box, boxstyle=style, **look)
    elif kind == "ellipse":
        yield Ellipse((number["cx"], number["cy"]), 2 * number["rx"], 2 * number["ry"], **look)
    elif kind == "polygon":
        corners = list(_points(element.get("points", "")))
        yield PathPatch(Path([*corners, corners[0]], closed=True), **look)
    elif kind == "path":
        yield PathPatch(_path(element.get("d", "")), **look)
    elif kind == "text":
        yield from _spans(element, number)


def _look(element: ElementTree.Element, number: dict[str, float]) -> dict[str, Any]:
    dash = [float(each) for each in _NUMBER.findall(element.get("stroke-dasharray", ""))]
    width = number.get("stroke-width", 1.0)
    return {
        "facecolor": element.get("fill", "black"),
        "edgecolor": element.get("stroke", "none"),
        "linewidth": width,
        "linestyle": (0, [each / width for each in dash]) if dash and width else "solid",
        "capstyle": "butt",
        "joinstyle": "miter",
    }


def _points(text: str) -> Iterator[tuple[float, float]]:
    numbers = iter(map(float, _NUMBER.findall(text)))
    return zip(numbers, numbers, strict=True)


def _path(text: str) -> Any:
    """A way of M, L and Q, in absolute numbers."""
    from matplotlib.path import Path

    codes, corners = [], []
    for letter, rest in re.findall(r"([MLQ])([^MLQ]*)", text):
        points = list(_points(rest))
        codes += [{"M": Path.MOVETO, "L": Path.LINETO, "Q": Path.CURVE3}[letter]] * len(points)
        corners += points
    return Path(corners, codes)


def _spans(element: ElementTree.Element, number: dict[str, float]) -> Iterable[Any]:
    """Each run of a text where its width puts it."""
    from matplotlib.text import Text

    spans = list(element) or [element]
    size = number.get("font-size", 12.0)
    sizes = [float(span.get("font-size", size)) for span in spans]
    forms = ["bold" if s.get("font-weight") else "italic" if s.get("font-style") else "" for s in spans]
    ahead = [float(span.get("dx", 0)) for span in spans]
    wide = [text_width(s.text or "", form) * each for s, form, each in zip(spans, forms, sizes, strict=True)]
    whole = sum(wide) + sum(ahead)
    x = number["x"] - {"middle": whole / 2, "end": whole}.get(element.get("text-anchor", ""), 0.0)
    y = number["y"]
    for span, form, each, width, dx in zip(spans, forms, sizes, wide, ahead, strict=True):
        x += dx
        y += float(span.get("dy", 0))
        if (span.text or "").strip():
            yield Text(
                x, y, (span.text or "").replace("$", r"\$"), fontsize=each, color=element.get("fill", "black"),
                fontfamily="STIXGeneral", weight="bold" if form == "bold" else "normal",
                style="italic" if form == "italic" else "normal", verticalalignment="baseline",
            )  # fmt: skip
        x += width
