"""`graphir draw`: a figure of the documents, a model at any stage, or a graph of one's own, as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.inspect import OPTIMIZER_OPTIONS, PARALLEL_OPTIONS, STAGES, compiler_options, deeper, staged
from graphir.cli.load import find_model, graph_options, is_named, model_names, model_option
from graphir.cli.options import MODEL_OPTIONS, GroupedCommand, GroupedOption, config_options, given
from graphir.cli.own import FORMS, is_own, name_of_file
from graphir.errors import ConfigError, meant
from graphir.files import write_atomically
from graphir.models import MODELS
from graphir.options import flag

if TYPE_CHECKING:
    from graphir.drawing import FigureConfig

#: Of `graphir.drawing.files`, spelled out so that a help text need not load it.
FORMATS = ("dot", "svg", "png", "pdf", "html", "json")
#: What a figure's configuration has, beside the model's options.
_FIGURE = ("layers", "heads", "dp", "tp", "lowered", "full")
_FIGURE_NAMES = {*MODEL_OPTIONS, *_FIGURE, "expand_layer", "model"}
#: What says which files are written, and no more.
_TARGET = {"what", "listed", "everything", "output", "format"}
#: What speaks of the drawing of a model, not of the model.
_OF_DRAWING = frozenset({"stage", "view", "expand_layer", "lowered", "full", "unfold"})


def _drawing(*names: str, **keywords: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=GroupedOption, group="Drawing", **keywords)


@click.command(cls=GroupedCommand)
@click.argument("what", required=False, metavar=f"[FIGURE|MODEL|{FORMS.replace(' or ', '|')}]")
@_drawing(
    "--list", "listed", is_flag=True, help="List the figures, with their sections in documents A and B (DOCUMENTS.md)."
)
@_drawing("--json", "as_json", is_flag=True, help="With --list: as JSON.")
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
@model_option(expose_value=True, callback=None)
@graph_options
@config_options(only=(*MODEL_OPTIONS, "heads", *OPTIMIZER_OPTIONS, *PARALLEL_OPTIONS))
@compiler_options
@click.pass_context
def draw(
    context: click.Context,
    /,
    what: str | None,
    model: str | None,
    listed: bool,
    as_json: bool,
    everything: bool,
    output: str | None,
    format: str | None,
    **options: Any,
) -> int:
    """Draw a figure of the documents, a model at any stage, or a graph of your own.

    FIGURE is one of those that --list names, of the documents' Transformer, or of the model that --model names; MODEL
    is transformer, mlp or a model by name, such as llama3-8b. FILE.py:FUNCTION is what a function of a file
    of your own returns, FILE.gir a graph as text that graphir ir has written. The format follows from the suffix: DOT,
    SVG, PNG or PDF; html is an interactive page, json is for Google's Model Explorer.
    """
    names = given(context)
    if listed:
        _refuse(names - {"listed", "as_json"}, "--list only lists the figures")
        _list(as_json)
        return 0
    _refuse(names & {"as_json"}, "--json is for --list; a graph is written as JSON by --format json")
    if everything:
        _refuse(names & {"what"}, "--all draws every figure")
        _draw_all(output, format or "svg", options, names, model)
        return 0
    what, model = (model, None) if what is None else (what, model)
    if what is None:
        raise click.UsageError("name a figure or a model to draw; graphir draw --list lists the figures", context)
    kind, path = _target(what, output, format)
    of_graph = what in MODELS or is_named(what) or is_own(what)
    if of_graph and model is not None:
        raise ConfigError(f"{what} is drawn as what it is; --model {model} is for figures")
    names -= {"model"} if model is None else set()
    content = _model(what, kind, options, names) if of_graph else _figure(what, kind, options, names, model)
    _write(path, content)
    return 0


def _list(as_json: bool) -> None:
    from graphir.drawing import figures

    found = figures()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], ensure_ascii=False, indent=1))
        return
    width = max(len(each.id) for each in found)
    for each in found:
        click.echo(f"{each.id:<{width}}  {each.where:<22}  {each.title}")


def _refuse(names: set[str], why: str) -> None:
    """ConfigError that says `why` the options, or the argument, of these names do nothing."""
    if names:
        raise ConfigError(f"{why}; leave out {', '.join(sorted(map(_written, names)))}")


def _written(name: str) -> str:
    """What a user writes for the parameter of this name."""
    spelled = {
        "what": "what else is named",
        "settings": "--set",
        "everything": "--all",
        "listed": "--list",
        "as_json": "--json",
    }
    return spelled.get(name, flag(name))


def _target(what: str, output: str | None, format: str | None) -> tuple[str, Path]:
    """The format and the file: `-o` names both; without it `what` and `--format` do."""
    from graphir.drawing.files import format_of

    if output is None:
        kind = format or "svg"
        return kind, Path(f"{name_of_file(what)}.{kind}")
    return format_of(output, format), Path(output)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
    click.echo(str(path))


# -- figures ----------------------------------------------------------------------------------------------


def _draw_all(output: str | None, kind: str, options: dict[str, Any], names: set[str], model: str | None) -> None:
    from graphir.drawing import figures
    from graphir.files import make_folder

    if output is None:
        raise ConfigError("say with -o which folder to draw all figures into")
    folder = Path(output)
    if folder.suffix.removeprefix(".") in FORMATS and not folder.is_dir():
        raise ConfigError(
            f"--all draws many files, and -o {output} names one; name a folder, and the format by --format"
        )
    config = _figure_config(options, names, model)
    make_folder(folder)
    for each in figures():
        _write(folder / f"{each.id}.{kind}", _figure_file(each.id, kind, config))


def _figure(id: str, kind: str, options: dict[str, Any], names: set[str], model: str | None) -> bytes:
    """A figure of the documents as a file; ConfigError for an option that changes nothing in it."""
    if id not in _ids():
        raise ConfigError(_unknown(id))
    config = _figure_config(options, names, model)
    _refuse_idle(id, kind, config)
    return _figure_file(id, kind, config)


def _figure_file(id: str, kind: str, config: FigureConfig) -> bytes:
    from graphir.drawing import figure, figure_graph
    from graphir.drawing.explorer import explorer_json
    from graphir.drawing.files import picture_file

    if kind == "json":
        return explorer_json(figure_graph(id, config), id).encode()
    return picture_file(figure(id, config), figure_graph(id, config), kind)


def _ids() -> list[str]:
    from graphir.drawing import figures

    return [each.id for each in figures()]


def _unknown(name: str) -> str:
    hint = meant(name, [*_ids(), *model_names()], "graphir draw --list lists the figures")
    return f"{name!r} is neither a figure nor a model ({', '.join(MODELS)}); {hint}"


def _figure_config(options: dict[str, Any], names: set[str], model: str | None) -> FigureConfig:
    """What the command line says of a figure; what it leaves open is the figure's own choice."""
    from graphir.drawing import FigureConfig

    foreign = sorted(map(_written, names - _FIGURE_NAMES - _TARGET))
    if foreign:
        raise ConfigError(f"a figure has no {', '.join(foreign)}; they are for models")
    known = {name: options[name] for name in _FIGURE if name in names}
    of_model = {name: options[name] for name in MODEL_OPTIONS if name in names and name not in known}
    drawn = None if model is None else find_model(model)[0]
    return FigureConfig(**known, options=of_model, expand=tuple(options["expand_layer"]), model=drawn)


def _refuse_idle(id: str, kind: str, config: FigureConfig) -> None:
    """ConfigError for options without which the figure would be the same: who gives them means another figure."""
    from graphir.drawing import FigureConfig, figure, figure_graph

    def shown(config: FigureConfig) -> object:
        return figure_graph(id, config) if kind == "json" else figure(id, config)

    usual = FigureConfig()
    changed = [each.name for each in fields(config) if getattr(config, each.name) != getattr(usual, each.name)]
    # Dims have no numbers in figures: heads count only for whether the GPUs divide them, which these they do.
    roomy = replace(config, heads=config.tp * usual.tp)
    wanted = shown(roomy) if changed else None
    for name in changed:
        without = replace(roomy, **{name: getattr(usual, name)})
        if "tp" not in changed if name == "heads" else shown(without) == wanted:
            raise ConfigError(f"{_spelled(name, config)} changes nothing in the figure {id}; leave it out")


def _spelled(name: str, config: FigureConfig) -> str:
    """The options that a field of the configuration comes of."""
    if name == "options":
        return ", ".join(map(flag, dict(config.options)))
    return "--expand-layer" if name == "expand" else flag(name)


# -- models -----------------------------------------------------------------------------------------------


def _model(model: str, kind: str, options: dict[str, Any], names: set[str]) -> bytes:
    """A model at a stage as a file."""
    from graphir.drawing.files import graph_file

    foreign = sorted(f"--{name}" for name in ("lowered", "full") if name in names)
    if foreign:
        raise ConfigError(f"a model has no {', '.join(foreign)}; they are for figures (--stage lowered takes apart)")
    _refuse(names & {"heads"}, "a model is drawn in named dims, N_H among them")
    if kind in ("html", "json"):
        _refuse(names & {"view"}, f"{kind} holds every view")
    stage = options["stage"] or ("forward" if is_own(model) else "autodiff")
    if options["unfold"] and (stage != "fused" or kind in ("html", "json")):
        raise ConfigError("--unfold is for --stage fused, drawn as dot, svg, png or pdf")
    rest = {name: value for name, value in options.items() if name not in _OF_DRAWING}
    graph = staged(model, stage, dict(rest), names)
    title = f"{model}, {stage}" if kind in ("html", "json") and not is_own(model) else name_of_file(model)
    more = deeper(model, stage, rest, names) if kind == "html" else None
    return graph_file(graph, kind, options["view"], title, options["expand_layer"], options["unfold"], more)
