"""From a picture to a file: DOT, SVG, PNG or PDF.

| format | by                                                                      |
|--------|-------------------------------------------------------------------------|
| dot    | `graphir.drawing.dot`: for Graphviz, and for programs that read graphs  |
| svg    | graphir's own layout and painter, with nothing else installed           |
| png    | the SVG, rasterized by resvg-py                                         |
| pdf    | the SVG, written by matplotlib                                          |

The extra `viz` brings what the last two need. Figures are set in Times; where a machine has no such font, the
rasterizer uses STIX, which has the same metrics and all of the documents' letters, and comes with matplotlib.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

from graphir.drawing.dot import dot
from graphir.drawing.paint import paint
from graphir.drawing.picture import Picture
from graphir.drawing.svg import parse_svg, printable
from graphir.errors import ConfigError, MissingDependencyError
from graphir.extras import install

FORMATS = ("dot", "svg", "png", "pdf")
#: Pixels a point of the drawing, for a PNG that is sharp in print: 2 is 144 dots an inch.
ZOOM = 2.0
#: A rasterizer's memory grows with the area; a picture of more pixels than this is scaled down.
MOST_PIXELS = 60_000_000


def render(picture: Picture, format: str) -> bytes:
    """The picture as a file of `format`: dot, svg, png or pdf.

    Errors: ConfigError for an unknown format, MissingDependencyError, with what to install, if nothing on this machine
    can make it.
    """
    if format not in FORMATS:
        raise ConfigError(f"cannot draw as {format!r}; choose from {', '.join(FORMATS)}")
    if format == "dot":
        return printable(dot(picture)).encode()
    svg = paint(picture)
    if format == "png":
        return _rasterize(svg)
    if format == "pdf":
        if find_spec("matplotlib") is None:
            raise MissingDependencyError(f"cannot draw as pdf: matplotlib writes it; {install('viz')}")
        from graphir.drawing.pdf import to_pdf

        return to_pdf(svg)
    return svg


def renderers() -> dict[str, str]:
    """What would draw each format on this machine, by name; a format that nothing draws is left out."""
    found = {"svg": "graphir"}
    if find_spec("resvg_py") is not None:
        found["png"] = "resvg-py"
    if find_spec("matplotlib") is not None:
        found["pdf"] = "matplotlib"
    return found


def _rasterize(svg: bytes) -> bytes:
    if find_spec("resvg_py") is None:
        raise MissingDependencyError(f"cannot draw as png: there is no rasterizer; {install('viz')}, or ask for svg")
    import resvg_py

    fonts = font_folder()
    text = svg.decode()
    made = resvg_py.svg_to_bytes(
        svg_string=text,
        background="#ffffff",
        zoom=_zoom(text),
        dpi=96.0,  # sizes are in points, which mean nothing without it
        font_dirs=[str(fonts)] if fonts else None,
        skip_system_fonts=fonts is not None,  # the same picture on every machine
        serif_family="STIXGeneral",
        sans_serif_family="DejaVu Sans",
        monospace_family="DejaVu Sans Mono",
    )
    return bytes(made)


def font_folder() -> Path | None:
    """Where matplotlib keeps STIX and DejaVu; None if it is not installed. It is not imported for that."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return folder if folder.is_dir() else None


def _zoom(svg: str) -> float:
    """`ZOOM`, or less if the picture would have more than `MOST_PIXELS`. An SVG says its size in points."""
    box = (parse_svg(svg).get("viewBox") or "0 0 1 1").split()
    area = float(box[2]) * float(box[3]) * (4 / 3) ** 2
    return min(ZOOM, math.sqrt(MOST_PIXELS / max(area, 1)))
