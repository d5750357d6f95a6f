"""`graphir export`: a model as a file that other programs run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from graphir.cli.inspect import OPTIMIZER_OPTIONS, PARALLEL_OPTIONS, staged, staged_subject
from graphir.cli.load import graph_argument, graph_options, is_named
from graphir.cli.options import (
    MODEL_OPTIONS,
    SIZE_OPTIONS,
    GroupedCommand,
    all_declared,
    config_options,
    declared,
    given,
)
from graphir.errors import ConfigError
from graphir.export import FORMATS
from graphir.ir.dims import dim_names
from graphir.models import MODELS
from graphir.models.sizes import DIMS, VOCABULARY, Sizes, named_sizes
from graphir.options import flag, options_of

if TYPE_CHECKING:
    from graphir.ir.graph import Graph

#: Of these, what a run is given says how large they are, unless somebody fixes them.
_OPEN = {"batch": "B", "sequence": "S"}
#: What is exported to be run is built without dropout.
_MODEL = tuple(name for name in MODEL_OPTIONS if name != "dropout")
#: What a step has, for the formats that have steps.
_STEP = ("dropout", *OPTIMIZER_OPTIONS, *PARALLEL_OPTIONS)
_STAGES = ("forward", "autodiff", "train")
_SIZES = tuple(name for name in SIZE_OPTIONS if name not in _OPEN)
_open_options = {
    name: replace(each, default=None, help=f"{each.help}  [default: in ONNX whatever a run has]")
    for name, each in options_of(Sizes).items()
    if name in _OPEN
}
_format_options = {name: each for entry in FORMATS.values() for name, each in entry.options.items()}


#: How stages are made of what is exported: as they are.
_UNOPTIMIZED = {"without": None, "recompute": "nothing"}


class _Source(NamedTuple):
    """What is exported: a graph, the sizes of its dims, what it is run for, and its parameters, if there are any."""

    graph: Graph
    sizes: Mapping[str, int]
    answers: tuple[str, ...]
    arrays: Mapping[str, Any] | None


@click.command(cls=GroupedCommand)
@graph_argument(default=None)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="onnx",
    show_default=True,
    help=f"What to write: {', or '.join(each.help for each in FORMATS.values())}.",
)
@click.option("--out", "-o", metavar="FILE", required=True, help="The file to write.")
@click.option(
    "--checkpoint",
    metavar="CHECKPOINT_OR_DIR",
    help="A trained Transformer, whose parameters are written, too: a checkpoint, or the folder of a run. Without it, "
    "parameters are inputs of what is exported.",
)
@click.option(
    "--fetch", metavar="NAME,…", help="The values to return.  [default: logits of a Transformer, Y of an MLP]"
)
@click.option(
    "--stage",
    type=click.Choice(_STAGES),
    default=_STAGES[0],
    show_default=True,
    help="Of StableHLO: the model alone, with its gradients, or with its update, too.",
)
@click.option(
    "--cached",
    is_flag=True,
    help="Of a model by name, or with its weights: it is handed keys and values of earlier tokens and returns them, so "
    "that a text goes on token by token.",
)
@config_options(only=(*_MODEL, *_SIZES, *_STEP))
@all_declared(_open_options)
@declared("vocabulary", VOCABULARY)
@graph_options
@all_declared(_format_options)
@click.pass_context
def export(
    context: click.Context,
    /,
    what: str,
    format_: str,
    out: str,
    checkpoint: str | None,
    stage: str,
    fetch: str | None,
    cached: bool,
    **options: Any,
) -> int:
    """Write a model as a file that other programs run: transformer, mlp, a model by name, a folder, or your own graph.

    In ONNX it is the forward graph without dropout, for every B and S unless they are given. What a checkpoint says of
    its model need not be said again; with learned positions a run has at most as many tokens as it was trained on.

    In StableHLO it is the program of a step, up to --stage; with --dp, --cp or --tp that of one rank, with its
    collectives. FILE.mlir is text; the same as portable bytecode, and a description in JSON, are written beside it.
    """
    entry, written = FORMATS[format_], given(context)
    chosen = entry.chosen(format_, {name: options.pop(name) for name in _format_options})
    named = {_OPEN[name]: options.pop(name) for name in _OPEN}
    told, size = written & {*_MODEL, *_SIZES, "vocabulary"}, options["size"]
    step = sorted(map(flag, written & {*_STEP, "stage"}))
    if step and not (entry.steps and checkpoint is None):
        raise ConfigError(f"{', '.join(step)}: what is exported so is the forward graph of one rank, which has none")
    if cached and (checkpoint is not None or not is_named(what)):
        raise ConfigError(f"--cached is for models by name, or with their weights; {what} keeps no keys and values")
    if checkpoint is not None:
        source = _trained(what, checkpoint, told)
    elif what in MODELS:
        source = _built(what, stage, options, told, entry.steps)
    else:
        source = _given(what, stage, options, written, entry.steps, cached)
    answers = list(source.answers) if stage == _STAGES[0] else None
    entry.save(
        source.graph,
        Path(out),
        {**source.sizes, **{name: size for name, size in named.items() if size}, **named_sizes(size)},
        fetch=answers if fetch is None else [name.strip() for name in fetch.split(",")],
        parameters=source.arrays,
        **chosen,
    )
    return 0


def _built(model: str, stage: str, options: Mapping[str, Any], told: set[str], steps: bool) -> _Source:
    """The model with these options as far as `stage`, of every rank, and sizes of the dims that it has.

    `told` are the options that the user wrote. In `steps` all dims have sizes, those of a training unless told.
    """
    from graphir.training.config import TrainConfig

    graph = staged(model, stage, {name: options[name] for name in (*_MODEL, *_STEP)} | _UNOPTIMIZED, set())
    known = options_of(MODELS[model].options)
    has = {*known, *(name for name, dim in DIMS.items() if dim in dim_names([graph.dims]))}
    if told - has:
        raise ConfigError(f"the model {model} has no {', '.join(sorted(map(flag, told - has)))}")
    sizes = TrainConfig(**{name: options[name] for name in (*_MODEL, *_SIZES)}).sizes(options["vocabulary"])
    return _Source(graph, _fixed(graph, sizes, () if steps else _OPEN.values()), MODELS[model].answers, None)


def _given(what: str, stage: str, options: Mapping[str, Any], told: set[str], steps: bool, cached: bool) -> _Source:
    """A model by name, or with its weights, or a graph of one's own, as far as `stage`."""
    usage = {"cached": True, "loss": False} if cached else None
    graph, asked = staged_subject(what, stage, {**options, **_UNOPTIMIZED}, told, usage)
    caches = tuple(new.name for new in graph.updates.values()) if cached else ()
    weights = None if asked.weights is None else {each.name: asked.weights[each.name] for each in graph.parameters}
    sizes = _fixed(graph, asked.sizes, () if steps else _OPEN.values())
    return _Source(graph, sizes, (*asked.answers, *caches), weights)


def _trained(model: str, checkpoint: str, told: set[str]) -> _Source:
    """A checkpoint's model."""
    from graphir.training import find_checkpoint, load_checkpoint
    from graphir.training.config import TRAINED

    if model != "transformer":
        raise ConfigError(f"a checkpoint is of a transformer, not of {model}")
    if told:
        raise ConfigError(f"the checkpoint says what its model is: leave out {', '.join(sorted(map(flag, told)))}")
    saved = load_checkpoint(find_checkpoint(Path(checkpoint)))
    if saved.config.model is not None:
        trained = saved.path.parent / TRAINED
        raise ConfigError(f"{saved.path} is of a run that trained {saved.config.model}: export --model {trained}")
    graph = MODELS[model].build(**saved.config.model_options(dropout=0.0))
    return _Source(graph, _fixed(graph, saved.sizes, _OPEN.values()), MODELS[model].answers, saved.arrays)


def _fixed(graph: Graph, sizes: Mapping[str, int], open: Collection[str]) -> dict[str, int]:
    """Those of the sizes that are of the graph's dims, and do not stay open."""
    return {name: sizes[name] for name in dim_names([graph.dims]) & sizes.keys() - {*open}}
