"""What a command is asked of: a ready-made model, or a graph of the user's own.

transformer, mlp    the documents' models, by their options
llama3-8b           a model by name, with its sizes and without weights; `llama` is a small one of the family
FOLDER, FILE.gguf   a model with its weights, as others write it: `graphir.hub`
block.py:swiglu     a graph of the user's own: `graphir.cli.own`
block.gir
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.options import MODEL_OPTIONS, SIZE_OPTIONS, Decorator, GroupedOption
from graphir.cli.own import FORMS, is_own, load_graph
from graphir.errors import ConfigError, meant
from graphir.models.sizes import DIMS, STORED, named_sizes
from graphir.options import flag, options_of

if TYPE_CHECKING:
    from graphir.ir.graph import Graph
    from graphir.models import Blueprint

#: The model that options speak of, and all of its options.
TRANSFORMER = "transformer"
_OF_TRANSFORMER = {*MODEL_OPTIONS, *SIZE_OPTIONS, "vocabulary"}
#: Those of them that models by name have, too; their other parts are what their names say.
_OF_BLUEPRINTS = {"layers", "dropout", "dtype", *DIMS}
#: The longest text that a model by name is asked of where nobody says how long.
_LONGEST = 4096
#: Where a command's context keeps what --model says.
_MODEL = "graphir.cli.model"


@dataclass(frozen=True)
class Subject:
    """What a command is asked of.

    graph      as it was built
    sizes      those that its dims are known to have
    answers    the names of the values that it is run for
    weights    a model's own, by the names of its parameters; None where it comes without
    """

    graph: Graph
    sizes: Mapping[str, int]
    answers: tuple[str, ...]
    weights: Mapping[str, Any] | None = None


def graph_argument(default: str | None = TRANSFORMER) -> Decorator:
    """A decorator that adds the argument `what`, a model or a graph, which may be given as --model, too."""
    shown = f"MODEL|{FORMS.replace(' or ', '|')}"

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        argument = click.argument(
            "what", type=GraphName(), required=False, metavar=f"[{shown}]", callback=_either(default)
        )
        return argument(model_option()(command))

    return decorate


def model_option(**keywords: Any) -> Decorator:
    """A decorator that adds --model; by itself another way to give the argument `what`."""
    keywords = {"expose_value": False, "is_eager": True, "callback": _keep_model, **keywords}
    help = "A model by name, such as llama3-8b or gpt2-xl, or with its weights: a folder, or FILE.gguf."
    return click.option("--model", cls=GroupedOption, group="Model", metavar="MODEL", help=help, **keywords)


def _keep_model(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[_MODEL] = value


def _either(default: str | None) -> Callable[[click.Context, click.Parameter, str | None], str]:
    """The argument `what`, or what --model says."""

    def choose(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
        model = context.meta.get(_MODEL)
        if model is not None and value is not None:
            raise click.UsageError(f"{value} and --model {model} both say what is asked of; give one", context)
        found = value if model is None else GraphName().convert(model, parameter, context)
        if found is None and default is None:
            raise click.UsageError(f"name a model, or a graph of your own, {FORMS}", context)
        return str(default) if found is None else found

    return choose


def graph_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds the options of a graph of one's own: --set and --size."""
    argument = "Of FILE.py:FUNCTION: an argument of the function, repeatable."
    size = _option("--size", "size", "DIM=N", "Of a graph of your own: how large a dim is, repeatable.")
    return _option("--set", "settings", "NAME=VALUE", argument)(size(command))


class GraphName(click.ParamType):  # type: ignore[type-arg]
    """A ready-made model's name, or a graph of one's own in one of the `FORMS`."""

    name = "MODEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`value`, if it names either; what it may have been meant as, if not."""
        written = str(value)
        known = model_names()
        if written not in known and not is_own(written) and not has_weights(written):
            others = f"a model's folder, FILE.gguf, {FORMS}"
            hint = meant(written, known, f"there are {', '.join(known)}; and {others}")
            self.fail(f"no model is called {written!r}; {hint}", param, ctx)
        return written


def model_names() -> tuple[str, ...]:
    """All ready-made models: the documents', those by name, and families."""
    from graphir.models import FAMILIES, MODELS, PRESETS

    return tuple(dict.fromkeys((*MODELS, *PRESETS, *FAMILIES)))


def is_named(what: str) -> bool:
    """Whether `what` is a model with sizes of its own, by name or from files, and not one of the documents'."""
    from graphir.models import FAMILIES, PRESETS

    return what in PRESETS or what in FAMILIES or has_weights(what)


def has_weights(what: str) -> bool:
    """Whether `what` is a model that comes with its weights: a folder or a file."""
    return what not in model_names() and (what.endswith(".gguf") or (what != "" and Path(what).is_dir()))


def find_model(what: str, changes: Mapping[str, Any] | None = None) -> tuple[Blueprint, Mapping[str, Any] | None]:
    """The model called `what`, or in that folder or file, with other layers, floats or sizes; and its weights, if any.

    Errors: ConfigError for one that is unknown, or cannot be so; ModelFileError for files that hold none.
    """
    from graphir.models import blueprint

    changes = changes or {}
    if not has_weights(what):
        return blueprint(what, **changes), None
    from graphir.hub import open_model

    fixed = sorted(changes.keys() - {"dtype"})
    if fixed:
        raise ConfigError(f"{what} is as large as its weights are; leave out what changes {', '.join(fixed)}")
    model = open_model(what)
    return model.blueprint.but(dtype=changes.get("dtype")), model.weights


def _option(flag: str, name: str, metavar: str, help: str) -> Decorator:
    return click.option(flag, name, cls=GroupedOption, group="Graph", metavar=metavar, multiple=True, help=help)


def subject(
    what: str,
    options: Mapping[str, Any],
    told: Collection[str],
    *,
    small: bool = False,
    usage: Mapping[str, Any] | None = None,
) -> Subject:
    """The graph that a command is asked of, as it was built, and sizes: what is told, and what a model's name says.

    `options` are the command's, `told` the names of those that the user wrote. `small` leaves out what nobody told, so
    that a model can be tried on short texts, and one without weights in a small size: its parts count, in few layers.
    `usage` is what a model with sizes of its own is built for, as `Usage` has it.
    Errors: ConfigError for options that the model has not, beside those of `load_graph`.
    """
    from graphir.models import MODELS

    if is_named(what):
        return _named(what, options, told, small, usage or {})
    sizes = {DIMS[name]: options[name] for name in DIMS if name in told} | named_sizes(options.get("size", ()))
    graph = build_graph(what, options, told)
    answers = MODELS[what].answers if what in MODELS else tuple(each.name for each in graph.outputs)
    return Subject(graph, sizes, answers)


def _named(
    what: str, options: Mapping[str, Any], told: Collection[str], small: bool, usage: Mapping[str, Any]
) -> Subject:
    """A model with its sizes, or others where the options say so, on so many sequences of so many tokens."""
    from graphir.models import Usage

    if options.get("settings"):
        raise ConfigError(f"--set is for a function of a Python file; {what} is a model")
    foreign = sorted(map(flag, {*told} & _OF_TRANSFORMER - _OF_BLUEPRINTS))
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: for the documents' Transformer; what {what} is, its name says")
    given = {DIMS[name]: options[name] for name in DIMS if name in told} | named_sizes(options.get("size", ()))
    run: dict[str, int] = {name: given.pop(name) for name in ("B", "S") if name in given}
    changes = {name: options[name] for name in ("layers", "dtype") if name in told}
    model, weights = find_model(what, changes if small and not has_weights(what) else {**changes, **given})
    composition = model.small() if small and weights is None and "layers" not in told else model.composition
    if "dropout" in told:
        composition = replace(composition, dropout=options["dropout"])
    graph, answers = composition.build(Usage(**{"decode": None, **usage})), (composition.answer,)
    if options.get("weights") == STORED:
        graph = _stored(graph, weights)
    if small and weights is None:
        return Subject(graph, _in_groups(model, given) | run, answers)
    if not small:
        longest = min(model.sizes["S_max"], _LONGEST)
        ranks = (options.get("cp") or 1) * (options.get("tp") or 1)  # of which each may have its share of a sequence
        run = {"B": options.get("dp") or 1, "S": longest // ranks * ranks or longest} | run
    return Subject(graph, model.bind(graph, **run), answers, weights)


def _stored(graph: Graph, weights: Any) -> Graph:
    """The graph with weights held as their files have them; of a model without, as those of today do, in bfloat16."""
    from graphir.passes import as_stored

    today = {each.name: ("bfloat16", False) for each in graph.parameters}
    return as_stored(graph, today if weights is None else weights.lies)


def _in_groups(model: Blueprint, sizes: dict[str, int]) -> dict[str, int]:
    """`sizes`, with as many heads of queries to one of keys as the model has; N_H follows where these are groups."""
    if model.groups == 1:
        return sizes
    if "N_H" not in sizes:
        return {"G": model.groups, **sizes}
    heads: dict[str, Any] = {name: sizes[name] for name in ("N_H", "N_KV") if name in sizes}
    changed = model.but(D_h=model.sizes["D_h"], **heads)
    return {**sizes, "N_KV": changed.sizes["N_KV"], "G": changed.groups}


def build_graph(what: str, options: Mapping[str, Any], told: Collection[str]) -> Graph:
    """The graph of a model of the documents', or one of the user's own."""
    from graphir.models import MODELS

    if options.get("weights") == STORED:
        raise ConfigError(f"--weights stored is for a model by name or with weights; {what} has none that are stored")
    settings: Sequence[str] = options.get("settings", ())
    if is_own(what):
        foreign = sorted(map(flag, {*told} & _OF_TRANSFORMER))
        if foreign:
            raise ConfigError(
                f"{', '.join(foreign)}: for graphir's models; {what} is a graph of your own, whose function takes its "
                f"options by --set name=value, and whose dims have sizes by --size B=4"
            )
        return load_graph(what, settings)
    if settings or (options.get("size") and what == TRANSFORMER):
        raise ConfigError(f"--set and --size are for a graph of your own, {FORMS}, and {what} is a model")
    known = options_of(MODELS[what].options)
    has = {*known, *(_OF_TRANSFORMER if what == TRANSFORMER else ())}
    foreign = sorted(flag(name) for name in {*told} & _OF_TRANSFORMER - has)
    if foreign:
        raise ConfigError(f"the model {what} has no {', '.join(foreign)}")
    return MODELS[what].build(**{name: value for name, value in options.items() if name in known})
