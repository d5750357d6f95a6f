"""`graphir draw`: a figure of the documents, or a model at any stage, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.inspect import OPTIMIZER_OPTIONS, PARALLEL_OPTIONS, STAGES, compiler_options, staged
from graphir.cli.load import FORMS, graph_options, is_own
from graphir.cli.options import MODEL_OPTIONS, GroupedCommand, GroupedOption, config_options, given
from graphir.errors import ConfigError
from graphir.models import MODELS
from graphir.options import flag

if TYPE_CHECKING:
    from graphir.drawing import FigureConfig, Picture
    from graphir.ir.graph import Graph

FORMATS = ("dot", "svg", "png", "pdf", "html", "json")
#: What a figure's configuration has, beside the model's options.
_FIGURE = ("layers", "heads", "dp", "tp", "lowered", "full")
_FIGURE_NAMES = {*MODEL_OPTIONS, *_FIGURE, "expand_layer"}


def _drawing(*names: str, **keywords: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=GroupedOption, group="Drawing", **keywords)


@click.command(cls=GroupedCommand)
@click.argument("what", required=False, metavar=f"[FIGURE|MODEL|{FORMS.replace(' or ', '|')}]")
@_drawing("--list", "listed", is_flag=True, help="List the figures.")
@_drawing("--all", "everything", is_flag=True, help="Draw all figures into the folder that -o names.")
@_drawing("--output", "-o", metavar="FILE", help="Where to; the suffix says the format: " + ", ".join(FORMATS) + ".")
@_drawing("--format", type=click.Choice(FORMATS), help="The format, where no suffix says it.  [default: svg]")
@_drawing(
    "--stage",
    type=click.Choice(STAGES),
    help="How far to compile a model.  [default: autodiff; a graph of your own as it is]",
)
@_drawing("--unfold", is_flag=True, help="Of the stage fused: what fused nodes hold, drawn inside of them.")
@_drawing("--view", help="The view of a model.  [default: overall; forward where there are no blocks to fold]")
@_drawing("--expand-layer", type=int, multiple=True, metavar="N", help="A layer to draw on its own, repeatable.")
@_drawing("--lowered", is_flag=True, help="Backward figures with dMatmul taken apart into T and •.")
@_drawing("--full", is_flag=True, help="Figures with BC, dAddB and seeds as nodes.")
@graph_options
@config_options(only=(*MODEL_OPTIONS, "heads", *OPTIMIZER_OPTIONS, *PARALLEL_OPTIONS))
@compiler_options
@click.pass_context
def draw(
    context: click.Context,
    /,
    what: str | None,
    listed: bool,
    everything: bool,
    output: str | None,
    format: str | None,
    **options: Any,
) -> int:
    """Draw a figure of the documents, or a model at any stage.

    FIGURE is one of those that --list names, MODEL is transformer or mlp; FILE.py:FUNCTION is what a function of a file
    of your own returns, FILE.gir a graph as text that graphir ir has written. The format follows from the suffix: DOT,
    SVG, PNG or PDF; html is an interactive page, json is for Google's Model Explorer.
    """
    names = given(context)
    if listed:
        _list()
        return 0
    if everything:
        _draw_all(output, format or "svg", options, names)
        return 0
    if what is None:
        raise click.UsageError("name a figure or a model to draw; graphir draw --list lists the figures", context)
    kind, path = _target(what, output, format)
    of_graph = what in MODELS or is_own(what)
    content = _model(what, kind, options, names) if of_graph else _figure(what, kind, options, names)
    _write(path, content)
    return 0


def _list() -> None:
    from graphir.drawing import figures

    found = figures()
    width = max(len(each.id) for each in found)
    for each in found:
        click.echo(f"{each.id:<{width}}  {each.where:<22}  {each.title}")


def _target(what: str, output: str | None, format: str | None) -> tuple[str, Path]:
    """The format and the file: `-o` names both; without it `what` and `--format` do."""
    if output is None:
        kind = format or "svg"
        return kind, Path(f"{_name(what)}.{kind}")
    path = Path(output)
    kind = format or path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        suffix = f"the suffix of {output!r}" if path.suffix else f"{output!r} has no suffix, which"
        raise ConfigError(f"{suffix} names no format; use {', '.join(f'.{each}' for each in FORMATS)}, or --format")
    return kind, path


def _name(what: str) -> str:
    """`swiglu` of `blocks/block.py:swiglu`, `block` of `block.gir`: what a drawing is called."""
    return Path(what.rpartition(":")[2]).stem if is_own(what) else what


def _write(path: Path, content: bytes) -> None:
    from graphir.files import write_atomically

    write_atomically(path, lambda file: file.write(content))
    click.echo(str(path))


# -- figures ----------------------------------------------------------------------------------------------


def _draw_all(output: str | None, kind: str, options: dict[str, Any], names: set[str]) -> None:
    from graphir.drawing import figures
    from graphir.files import make_folder

    if output is None:
        raise ConfigError("say with -o which folder to draw all figures into")
    folder = Path(output)
    make_folder(folder)
    for each in figures():
        _write(folder / f"{each.id}.{kind}", _figure(each.id, kind, options, names))


def _figure(id: str, kind: str, options: dict[str, Any], names: set[str]) -> bytes:
    """A figure of the documents as a file."""
    from graphir.drawing import figure, figure_graph

    if id not in _ids():
        raise ConfigError(_unknown(id))
    config = _figure_config(options, names)
    if kind == "json":
        return _explorer(figure_graph(id, config), id)
    return _picture(figure(id, config), kind)


def _ids() -> list[str]:
    from graphir.drawing import figures

    return [each.id for each in figures()]


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*_ids(), *MODELS], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "graphir draw --list lists the figures"
    return f"{name!r} is neither a figure nor a model ({', '.join(MODELS)}); {hint}"


def _figure_config(options: dict[str, Any], names: set[str]) -> FigureConfig:
    """What the command line says of a figure; what it leaves open is the figure's own choice."""
    from graphir.drawing import FigureConfig

    foreign = sorted(
        flag(name) for name in names - _FIGURE_NAMES - {"what", "listed", "everything", "output", "format"}
    )
    if foreign:
        raise ConfigError(f"a figure has no {', '.join(foreign)}; they are for models")
    known = {name: options[name] for name in _FIGURE if name in names}
    of_model = {name: options[name] for name in MODEL_OPTIONS if name in names and name not in known}
    return FigureConfig(**known, options=of_model, expand=tuple(options["expand_layer"]))


def _picture(picture: Picture, kind: str) -> bytes:
    from graphir.drawing import dot
    from graphir.drawing.page import figure_page
    from graphir.drawing.render import render

    return figure_page(picture).encode() if kind == "html" else render(dot(picture), kind)


def _explorer(graph: Graph, label: str) -> bytes:
    from graphir.drawing.explorer import explorer_json

    return explorer_json(graph, label).encode()


# -- models -----------------------------------------------------------------------------------------------


def _model(model: str, kind: str, options: dict[str, Any], names: set[str]) -> bytes:
    """A model at a stage as a file."""
    from dataclasses import replace

    from graphir.drawing import draw as draw_view
    from graphir.drawing import find_view, usual_view
    from graphir.drawing.page import model_page
    from graphir.drawing.unfold import unfolded

    foreign = sorted(f"--{name}" for name in ("lowered", "full") if name in names)
    if foreign:
        raise ConfigError(f"a model has no {', '.join(foreign)}; they are for figures (--stage lowered takes apart)")
    options["stage"] = options["stage"] or ("forward" if is_own(model) else "autodiff")
    if options["unfold"] and (options["stage"] != "fused" or kind in ("html", "json")):
        raise ConfigError("--unfold is for --stage fused, drawn as dot, svg, png or pdf")
    rest = {name: value for name, value in options.items() if name not in _OF_DRAWING}
    graph = staged(model, options["stage"], rest, names)
    title = _name(model) if is_own(model) else f"{model}, {options['stage']}"
    if kind == "json":
        return _explorer(graph, title)
    if kind == "html":
        return model_page(graph, title, options["expand_layer"]).encode()
    view = replace(find_view(graph, options["view"] or usual_view(graph)), expand=tuple(options["expand_layer"]))
    if options["unfold"]:
        graph, view = unfolded(graph, view)
    return _picture(draw_view(graph, view, _name(model)), kind)


_OF_DRAWING = frozenset({"stage", "view", "expand_layer", "lowered", "full", "unfold"})
