"""How much room text takes: the widths of Times' letters, as STIX has them, and of labels made of runs.

A label is measured before it is placed, so that whatever lies beside it keeps away. The table in `assets/widths.json`
holds widths in thousandths of the type size; a letter that it lacks counts as wide as a capital, one of East Asia as a
square.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files

from graphir.drawing.picture import Label

#: Sub- and superscripts against the text that they belong to, and how far below or above its line they stand.
SCRIPT = 0.72
SHIFT: Mapping[str, float] = {"sub": 0.25, "sup": -0.40}
#: Of the type size: from the line up to a capital's top, and down to a hanging letter's end.
ASCENT, DESCENT = 0.70, 0.24
_FACES: Mapping[str, str] = {"bold": "bold", "italic": "italic"}


@lru_cache(maxsize=1)
def _widths() -> Mapping[str, Mapping[str, float]]:
    text = files("graphir.drawing").joinpath("assets", "widths.json").read_text(encoding="utf-8")
    return {
        face: {letter: int(width) / 1000 for width, letters in table.items() for letter in letters}
        for face, table in json.loads(text).items()
    }


@lru_cache(maxsize=4096)
def text_width(text: str, form: str = "") -> float:
    """The width of `text` in the face that a run's form asks for, in type sizes."""
    known = _widths()[_FACES.get(form, "roman")]
    roman = _widths()["roman"]
    return sum(known.get(each) or roman.get(each) or _unknown(each) for each in text if not unicodedata.combining(each))


def _unknown(letter: str) -> float:
    return 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.72


def label_width(label: Label, size: float) -> float:
    """The width of a label set at `size` points, in points."""
    return size * sum(
        text_width(run.text, run.form) * (SCRIPT if run.form in ("sub", "sup", "small") else 1) for run in label
    )
