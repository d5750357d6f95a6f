"""`graphir ir` and `graphir ops`: what a model is made of, and what models can be made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.load import TRANSFORMER, Subject, graph_argument, graph_options, is_named, subject
from graphir.cli.options import (
    MODEL_OPTIONS,
    SIZE_OPTIONS,
    GroupedCommand,
    GroupedOption,
    config_options,
    given,
    require_ranks,
)
from graphir.cli.tables import say, wrapped
from graphir.errors import ConfigError
from graphir.options import flag

if TYPE_CHECKING:
    from graphir.drawing.explore import Deeper
    from graphir.ir.graph import Graph
    from graphir.ir.operator import Operator

STAGES = ("forward", "autodiff", "train", "lowered", "fused")
#: What recomputation may be asked for: `graphir.passes.LEVELS`, spelled out so that help need not load the passes.
RECOMPUTE = "nothing, masks, attention, selective or full"
_SCHEDULE = ("learning_rate", "schedule", "warmup", "steps", "schedule_steps", "floor")
OPTIMIZER_OPTIONS = ("optimizer", *_SCHEDULE, "weight_decay", "clip")
PARALLEL_OPTIONS = ("dp", "cp", "tp", "plan")


def compiler_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what says how the stage `fused` is made."""
    without = click.option(
        "--without",
        cls=GroupedOption,
        group="Compiler",
        metavar="PASS,…",
        help="Of the stage fused: optimising passes to leave out, such as cse,fuse.",
    )
    return without(recompute_option("Of the stage fused: what the backward pass makes again, ")(command))


def recompute_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --recompute, whose levels follow `help`."""
    return click.option(
        "--recompute",
        cls=GroupedOption,
        group="Compiler",
        metavar="LEVEL",
        default="masks",
        show_default=True,
        help=f"{help}{RECOMPUTE}.",
    )


@click.command(cls=GroupedCommand)
@graph_argument(default=None)
@graph_options
@click.option("--stage", type=click.Choice(STAGES), default="forward", show_default=True, help="How far to compile.")
@config_options(only=(*MODEL_OPTIONS, *OPTIMIZER_OPTIONS, *PARALLEL_OPTIONS))
@compiler_options
@click.option("--output", "-o", metavar="FILE", help="Write to FILE instead of stdout.")
@click.option(
    "--json", "as_json", is_flag=True,
    help="Print one JSON object instead of text: dims, inputs, parameters, state, nodes (operator, attributes, "
    "operands, results, scope, phase, your line), outputs, aliases. Keys: graphir/text/data.py.",
)  # fmt: skip
@click.pass_context
def ir(context: click.Context, /, what: str, stage: str, output: str | None, as_json: bool, **options: Any) -> int:
    """Print a model, or a graph of your own, at any stage.

    MODEL is transformer, mlp, or a model by name, such as llama3-8b. A graph of your own is what FUNCTION of the Python
    file FILE.py returns, or a text that this command wrote.

    forward is the model with its loss, autodiff adds the gradients, train the optimizer; lowered takes composite
    nodes of that apart, fused is what the compiler makes of it. With --dp, --cp or --tp each is printed as every
    rank of the mesh runs it.
    """
    from graphir.text import to_data, to_text

    graph = staged(what, stage, options, given(context))
    text = f"{json.dumps(to_data(graph), ensure_ascii=False, indent=1)}\n" if as_json else to_text(graph)
    if output is None:
        click.echo(text, nl=False)
        return 0
    from graphir.files import write_atomically

    write_atomically(Path(output), lambda file: file.write(text.encode()))
    return 0


def staged(what: str, stage: str, options: dict[str, Any], given_names: set[str]) -> Graph:
    """The model with these options, or the graph of one's own, compiled as far as `stage`."""
    graph, _ = staged_subject(what, stage, options, given_names)
    if "size" in given_names and not graph.mesh.axes and not is_named(what):
        raise ConfigError("--size does nothing here: sizes count where ranks share dims, by --dp, --cp or --tp")
    return graph


def staged_subject(
    what: str,
    stage: str,
    options: dict[str, Any],
    given_names: set[str],
    usage: Mapping[str, Any] | None = None,
) -> tuple[Graph, Subject]:
    """What a command is asked of, compiled as far as `stage`, and as it was built; `usage` as `subject` has it."""
    from graphir.passes import dce, lower, optimize, run_pipeline, shard, with_gradients
    from graphir.training.config import TrainConfig
    from graphir.training.parallel import plan_of
    from graphir.training.programs import optimizer_of

    without, level = options.pop("without"), options.pop("recompute")
    of_graph = {name: options.pop(name, ()) for name in ("settings", "size", "vocabulary")}
    compiler = sorted(f"--{name}" for name in given_names & {"without", "recompute"})
    if compiler and stage != "fused":
        raise ConfigError(f"the stage {stage} has no {', '.join(compiler)}; they are for --stage fused")
    idle = sorted(flag(name) for name in given_names & {*OPTIMIZER_OPTIONS})
    if idle and stage in ("forward", "autodiff"):
        raise ConfigError(f"the stage {stage} has no optimizer, and so no {', '.join(idle)}; ask for --stage train")
    config = TrainConfig(**options).check()
    of_model = {name: getattr(config, name) for name in (*MODEL_OPTIONS, *SIZE_OPTIONS, "dp")}
    asked = subject(what, {**of_model, **of_graph}, given_names, usage=usage)
    graph, sizes = asked.graph, asked.sizes
    if stage != "forward":
        graph = with_gradients(graph)
    if stage in ("train", "lowered", "fused"):
        graph = optimize(graph, optimizer_of(config))
    mesh, plan = config.mesh(), plan_of(config)
    require_ranks(config.plan, config.mesh().size)
    if mesh.axes:
        graph = shard(graph, mesh, plan, sizes or None)
    if stage == "fused":
        graph = run_pipeline(dce(graph), level, _names(without))
    return (lower(graph) if stage == "lowered" else graph), asked


def deeper(what: str, stage: str, options: Mapping[str, Any], given_names: set[str]) -> Deeper | None:
    """How the model with these options is built with other layers; None where their number is no option."""
    from graphir.cli.step import depth_of
    from graphir.drawing.explore import Deeper

    layers, period = depth_of(what, options, given_names)
    if layers is None and what != TRANSFORMER:
        return None
    return Deeper(lambda count: staged(what, stage, {**options, "layers": count}, {*given_names, "layers"}), period)


def _names(written: str | None) -> list[str]:
    """The names in `cse, fuse`."""
    return [name.strip() for name in (written or "").split(",") if name.strip()]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def ops(as_json: bool) -> int:
    """List the operator dictionary: symbol, key, formula, signatures, d-operator."""
    from graphir.ir.operator import operators

    rows = [
        {
            "symbol": each.symbol,
            "key": each.key,
            "signature": _signatures(each),
            "d-operator": _backward(each),
            "formula": each.doc.splitlines()[0],
        }
        for each in operators()
    ]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    for row in rows:
        called = row["symbol"] if row["symbol"] == row["key"] else f"{row['symbol']} ({row['key']})"
        say(wrapped(f"{called}: {row['formula']}"))
        for signature in row["signature"].split("\n"):
            say(wrapped(signature, indent=4))
        say(wrapped(row["d-operator"], "backward: ", 4))
    return 0


def _signatures(operator: Operator) -> str:
    """The signature of each example of the operator, each once."""
    found = (str(each) for example in operator.examples for each in operator.signatures(operator.normalize(example)))
    return "\n".join(dict.fromkeys(found))


def _backward(operator: Operator) -> str:
    """What differentiates the operator: its d-operator, a rule in terms of others, or nothing."""
    if operator.d_operator is not None:
        return operator.d_operator.symbol
    return "by rule" if operator.gradient_rule is not None else "—"
