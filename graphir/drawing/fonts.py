"""Type that a page brings along: STIX, as matplotlib has it, cut down to the letters that the page uses.

Figures are laid out with the metrics of Times, which STIX shares; a page that brings its own letters looks the same
everywhere, and no label is wider than the room that was made for it. Without matplotlib (or fontTools, which comes
with it) a page uses the reader's own Times.
"""

from __future__ import annotations

import base64
import io
from importlib.util import find_spec

from graphir.drawing.render import font_folder

FAMILY = "graphir STIX"
_FACES = (
    ("STIXGeneral.ttf", "normal", "normal"),
    ("STIXGeneralItalic.ttf", "normal", "italic"),
    ("STIXGeneralBol.ttf", "bold", "normal"),
    ("STIXGeneralBolIta.ttf", "bold", "italic"),
)


def font_faces(text: str) -> str:
    """CSS that defines `FAMILY` with all letters of `text` that STIX has; empty if the fonts are not installed."""
    folder = font_folder()
    if folder is None or find_spec("fontTools") is None:
        return ""
    letters = set(text)
    rules = []
    for file, weight, slant in _FACES:
        path = folder / file
        if path.is_file():
            data = base64.b64encode(_subset(str(path), letters)).decode()
            rules.append(
                f'@font-face {{ font-family: "{FAMILY}"; font-weight: {weight}; font-style: {slant}; '
                f"src: url(data:font/woff;base64,{data}); }}"
            )
    return "\n".join(rules)


def _subset(path: str, letters: set[str]) -> bytes:
    """The font at `path` with these letters only, as WOFF."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    options = Options(
        hinting=False, layout_features=["kern", "liga"], notdef_outline=True, drop_tables=["FFTM", "PfEd"]
    )
    font = TTFont(path, recalcTimestamp=False)
    subsetter = Subsetter(options)
    subsetter.populate(text="".join(sorted(letters)))
    subsetter.subset(font)
    font.flavor = "woff"
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()
