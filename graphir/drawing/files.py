"""Drawings as the content of files: the format by the suffix, a picture of a view, a page, or the whole graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphir.drawing.picture import Picture
from graphir.drawing.render import FORMATS as PICTURES
from graphir.drawing.render import render
from graphir.drawing.scene import draw
from graphir.drawing.unfold import unfolded
from graphir.drawing.view import View
from graphir.drawing.views import find_view, require_layers, usual_view
from graphir.errors import ConfigError
from graphir.ir.graph import Graph

if TYPE_CHECKING:
    from graphir.drawing.explore import Deeper

#: Pictures, then the interactive page, and what Google's Model Explorer reads.
FORMATS = (*PICTURES, "html", "json")


def format_of(path: str | Path, format: str | None = None) -> str:
    """`format`, or what the suffix of `path` names; ConfigError if that is none."""
    kind = format or Path(path).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        suffix = f"the suffix of {str(path)!r}" if Path(path).suffix else f"{str(path)!r} has no suffix, which"
        raise ConfigError(f"{suffix} names no format; use {', '.join(f'.{each}' for each in FORMATS)}, or --format")
    return kind


def picture_file(picture: Picture, graph: Graph, format: str) -> bytes:
    """A picture of a graph as a file: a drawing, or a page of it."""
    from graphir.drawing.explore import figure_page

    return figure_page(picture, graph).encode() if format == "html" else render(picture, format)


def graph_file(
    graph: Graph,
    format: str,
    view: str | View | None = None,
    title: str | None = None,
    expand: Sequence[int] = (),
    unfold: bool = False,
    deeper: Deeper | None = None,
) -> bytes:
    """A graph as a file, under `view` or its usual one; `expand` names layers to draw on their own.

    html is a page of all views (`deeper` as `model_page` has it), json the whole graph. With `unfold`, what fused nodes
    hold is drawn inside of them.
    Errors: ConfigError for an unknown view or format, MissingDependencyError if nothing here can make the format.
    """
    from graphir.drawing.explore import model_page
    from graphir.drawing.explorer import explorer_json

    if format == "json":
        return explorer_json(graph, title or graph.name).encode()
    require_layers(graph, expand)
    if format == "html":
        return model_page(graph, title, expand=expand, deeper=deeper).encode()
    shown = find_view(graph, view or usual_view(graph))
    shown = replace(shown, expand=(*shown.expand, *expand))
    if unfold:
        graph, shown = unfolded(graph, shown)
    return picture_file(draw(graph, shown, title or graph.name), graph, format)
