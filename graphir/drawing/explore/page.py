"""The page put together: data and drawings of a graph, the program that shows them, and its looks; one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from graphir.drawing.explore.drawings import ALL, Drawing
from graphir.drawing.fonts import font_faces
from graphir.drawing.inline import asset, document_head, script_json

#: The program's files, each after those that it uses.
PROGRAM = (
    *("formulas.js", "svg.js", "depth.js", "model.js", "tree.js", "overlay.js", "layout.js", "paint.js", "unfolded.js"),
    *("afar.js", "light.js", "stage.js", "margins.js", "panel.js", "outline.js", "sizes.js", "chart.js", "search.js"),
    *("controls.js", "print.js", "app.js"),
)
STYLES = ("colors.css", "page.css", "panel.css", "stage.css", "screens.css")
_OVERLAYS = ("plain", "sharding", "bytes", "time", "memory")
_HATCHES = 4
_LETTERS = "".join(map(chr, range(0x20, 0x7F))) + "·−…▸▾×µ\u202f"


def html(data: dict[str, Any], drawings: Sequence[Drawing]) -> str:
    """The page of `data`, as `graphir.drawing.explore.data` has it."""
    distinct = list(dict.fromkeys(each.svg for each in drawings))
    places = [distinct.index(each.svg) for each in drawings]
    data = {**data, "kinds": [_placed(kind, places) for kind in data["kinds"]]}
    templates = "\n".join(f'<template id="drawing-{at}">{svg}</template>' for at, svg in enumerate(distinct))
    program = "\n".join(_asset(name) for name in PROGRAM)
    title = escape(data["title"])
    faces = font_faces("".join(distinct) + title + _LETTERS)
    style = "\n".join(_asset(name) for name in STYLES)
    return f"""{document_head(data["title"], program, faces, style)}
<body data-overlay="plain"{" class='figure'" if _is_figure(data) else ""}>
{_header(data, title)}
{_STAGE}
<section id="memory" aria-label="Memory over the pass"></section>
{_PANEL}
<div id="print"></div>
<svg class="patterns" width="0" height="0" aria-hidden="true"><defs>{_hatches()}</defs></svg>
{templates}
<script type="application/json" id="data">{script_json(data)}</script>
<script>{program}</script>
</body>
</html>
"""


def _button(action: str, text: str, label: str = "", more: str = "") -> str:
    named = f' aria-label="{label}" title="{label}"' if label else ""
    return f'<button type="button" data-do="{action}"{named}{more}>{text}</button>'


_STAGE = f"""\
<main id="stage" tabindex="0" aria-label="The drawing: arrow keys move it, + and − zoom; the outline reads it">
<canvas class="backdrop" aria-hidden="true"></canvas>
<div class="sheet-of-all" aria-hidden="true"><svg></svg><div id="unfolded"></div></div>
<div class="ranks" aria-hidden="true"><div></div></div>
<div class="rows" aria-hidden="true"><div></div></div>
<div id="here" aria-hidden="true"></div>
<ul id="legend" aria-label="What colours mean"></ul>
<div class="zoom group">{_button("farther", "−", "Farther")}{_button("home", "whole", "Whole drawing")}\
{_button("nearer", "+", "Nearer")}</div>
</main>"""
_PANEL = """<aside>
<div role="tablist" class="group tabs">
<button type="button" role="tab" data-tab="about" aria-selected="true" aria-controls="about">About</button>
<button type="button" role="tab" data-tab="outlines" aria-selected="false" aria-controls="outlines">Outline</button>
<button type="button" role="tab" data-tab="sizes" aria-selected="false" aria-controls="sizes">Sizes</button>
</div>
<div id="about" role="tabpanel" aria-live="polite"></div>
<div id="outlines" role="tabpanel" hidden><div id="outline" role="tree" aria-label="Outline of the model"></div></div>
<div id="sizes" role="tabpanel" hidden></div>
</aside>"""


def _header(data: dict[str, Any], title: str) -> str:
    figure = _is_figure(data)
    phases = {node["phase"] for kind in data["kinds"] for node in kind["nodes"]}
    passes = "".join(
        f'<button type="button" data-pass="{each}" aria-pressed="false">{each}</button>'
        for each in ("forward", "backward", "update")
        if each in phases and len(phases) > 1 and not figure
    )
    choices = "".join(f'<option value="{each}">{each}</option>' for each in _OVERLAYS)
    folds = any("/" in path for path, _, _ in data["blocks"])
    ranks = _button("ranks", "every rank", "Every rank in a column of its own", ' aria-pressed="false"')
    parts = (
        '<span class="search"><input id="search" type="search" placeholder="search a tensor (/)" autocomplete="off" '
        'aria-label="Search a tensor"><ul id="found"></ul></span>',
        f'<span class="group" role="group" aria-label="Passes shown">{passes}</span>' if passes else "",
        f'<label>show <select id="overlay">{choices}</select></label>',
        f'<span class="group">{_button("fold", "fold all")}{_button("unfold", "unfold all")}</span>' if folds else "",
        ranks if data["mesh"] and not figure else "",
        _button("print", "print"),
    )
    return f'<header><h1>{title}</h1><div class="tools">{"".join(parts)}</div></header>'


def _is_figure(data: dict[str, Any]) -> bool:
    """Whether the page shows one picture, and nothing to fold."""
    return any(ALL in kind["drawings"] for kind in data["kinds"])


def _hatches() -> str:
    """Hatchings for pending sums, one for each axis of a mesh."""
    return "".join(
        f'<pattern id="hatch-{at}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="6" height="6" class="hatch-ground"/><path d="M0 0V6" class="hatch-{at}"/></pattern>'
        for at in range(_HATCHES)
    )


def _placed(kind: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The kind with its drawings where those that are alike stand once."""
    drawings = {phase: {**each, "at": places[each["at"]]} for phase, each in kind["drawings"].items()}
    return {**kind, "drawings": drawings}


def _asset(name: str) -> str:
    return asset("graphir.drawing.explore", f"assets/{name}")
