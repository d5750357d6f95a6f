"""`graphir cost`: what a step of a model costs, per rank, as formulas and as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.inspect import PARALLEL_OPTIONS, recompute_option
from graphir.cli.load import graph_argument, graph_options
from graphir.cli.options import (
    MODEL_OPTIONS,
    SIZE_OPTIONS,
    GroupedCommand,
    GroupedOption,
    config_options,
    declared,
    given,
)
from graphir.cli.step import Asked, asked, config_of
from graphir.cli.tables import amount, console, say, sizes_line, wrapped
from graphir.errors import ConfigError
from graphir.models.sizes import VOCABULARY, WEIGHTS

if TYPE_CHECKING:
    from graphir.backends.compiled.memory import MemoryPlan
    from graphir.cost import Polynomial, StepCost
    from graphir.ir.graph import Graph
    from graphir.training.vocabulary import Vocabulary

_OPTIONS = (
    *(*MODEL_OPTIONS, *SIZE_OPTIONS, *PARALLEL_OPTIONS),
    *("precision", "results", "vocabulary_multiple", "optimizer", "clip"),
)
_SHOWN = 8
_UNITS = {"B": 1e0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


class _Bytes(click.ParamType):  # type: ignore[type-arg]
    """An amount of memory: 8e9, 8GB, 500 MB."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of bytes."""
        text = str(value).strip()
        unit = next((unit for unit in ("kB", "MB", "GB", "TB", "B") if text.endswith(unit)), "")
        try:
            found = float(text.removesuffix(unit)) * _UNITS[unit or "B"]
        except ValueError:
            found = -1.0
        if not 0 < found < float("inf"):
            self.fail(f"{value!r} is no amount of memory; write bytes, or 500MB, 8GB", param, ctx)
        return found


@click.command(cls=GroupedCommand)
@graph_argument()
@graph_options
@config_options(only=_OPTIONS)
@declared("vocabulary", VOCABULARY)
@declared("weights", WEIGHTS)
@recompute_option("What the backward pass makes again: ")
@click.option(
    "--planned", is_flag=True, cls=GroupedOption, group="Compiler",
    help="Also compile the step, and tell the memory that it is planned to need, to the byte.",
)  # fmt: skip
@click.option(
    "--memory",
    cls=GroupedOption,
    group="Compiler",
    type=_Bytes(),
    help="What a rank may need as planned: the first level from --recompute on that fits, 500MB, 8GB.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.pass_context
def cost(
    context: click.Context,
    /,
    what: str,
    vocabulary: int,
    recompute: str,
    planned: bool,
    memory: float | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Work out what a training step costs: parameters, FLOPs, memory and bytes sent, of one rank.

    Formulas first, in the dims of the documents, numbers second. All of it is counted from the graph that runs, what
    is computed again and rows that only pad the vocabulary included. What an update writes over is counted once.
    """
    from graphir.cost import extrapolate, mesh_sizes, step_cost
    from graphir.passes import LEVELS
    from graphir.passes import recompute as again

    if recompute not in LEVELS:
        raise ConfigError(f"--recompute {recompute} is no level; choose from {', '.join(LEVELS)}")
    config = config_of(options)
    step = asked(what, "train", config, vocabulary, options, given(context))
    level, plan = _planned(step, recompute, memory) if planned or memory is not None else (recompute, None)

    def of_layers(layers: int | None) -> StepCost:
        graph = again(step.graph(layers), level)
        return step_cost(graph, step.needed(graph))

    found = of_layers(None) if step.layers is None else extrapolate(of_layers, step.layers, step.period)
    graph = step.graph(None if step.layers is None else min(step.layers, step.period))
    sizes = mesh_sizes(graph, step.needed(graph))
    padding = _padding(found, step.parallel.vocabulary, sizes)
    if as_json:
        data = {"mesh": str(graph.mesh), "sizes": sizes, **_data(found, level, padding, sizes)}
        click.echo(json.dumps({**data, **({} if plan is None else {"planned": _plan_data(level, plan)})}, indent=2))
        return 0
    _print(found, graph, level, padding, sizes)
    if plan is not None:
        say(f"\ncompiled, recompute={level}: {plan}")
    return 0


def _rows(found: StepCost) -> dict[str, Polynomial]:
    """What has a formula, by the name that it is told under."""
    return {**found.elements, **{f"FLOPs, {phase}": each for phase, each in found.flops.items()}}


def _padding(found: StepCost, vocabulary: Vocabulary, sizes: Mapping[str, int]) -> dict[str, int]:
    """How much of each row of the table is there only because V_pad is more than V; nothing if it is not."""
    if not vocabulary.padded:
        return {}
    tokens = {**sizes, **vocabulary.unpadded}
    return {name: round(each.number(sizes) - each.number(tokens)) for name, each in _rows(found).items()}


def _planned(step: Asked, level: str, memory: float | None) -> tuple[str, MemoryPlan]:
    """The level of recomputation, the first from `level` on that fits into `memory`, and the plan of the step.

    The step returns the loss and the new content of what it updates, written over the old.
    """
    from graphir import compile
    from graphir.backends.compiled.memory import MemoryPlan
    from graphir.passes import LEVELS

    graph = step.graph()
    fetch = [graph.outputs[0].name, *(value.name for value in graph.updates.values())]
    for each in LEVELS[LEVELS.index(level) :] if memory is not None else (level,):
        # What costs are asked of may run elsewhere.
        executable = compile(
            graph, step.needed(graph), fetch=fetch, recompute=each, memory=math.inf, donate=bool(graph.updates)
        )
        plan = executable.memory
        assert isinstance(plan, MemoryPlan)
        if memory is None or plan.bytes <= memory:
            return each, plan
    raise ConfigError(f"no level of recomputation fits into --memory {memory:g}; the last needs more: {plan}")


# -- what is shown ----------------------------------------------------------------------------------------


def _data(found: StepCost, level: str, padding: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, Any]:
    """The costs as plain data, for JSON."""
    moment = found.memory
    return {
        **{name: {"formula": str(each), "number": int(each.number(sizes))} for name, each in _rows(found).items()},
        "padding of the vocabulary": dict(padding),
        "recompute": level,
        "FLOPs by operator": dict(_by_operator(found)),
        "FLOPs beyond the causal diagonal": found.spared,
        "bytes sent": {kind: float(sent) for kind, sent in found.sent.items()},
        "memory": {
            "bytes": moment.bytes,
            "at": found.fullest,
            "by category": dict(moment.categories),
            "largest": dict(moment.largest(_SHOWN)),
        },
    }


def _plan_data(level: str, plan: MemoryPlan) -> dict[str, Any]:
    return {
        "recompute": level,
        "bytes": plan.bytes,
        "arguments": plan.arguments,
        "results": plan.results,
        "arena": plan.arena,
        "scratch": plan.scratch,
        "fullest at": plan.at,
        "alive": dict(plan.alive),
    }


def _by_operator(found: StepCost) -> list[tuple[str, int]]:
    return sorted(found.operators.items(), key=lambda item: -item[1])


def _print(found: StepCost, graph: Graph, level: str, padding: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    from rich.table import Table
    from rich.text import Text

    of = f"one of {graph.mesh.size} ranks ({graph.mesh})" if graph.mesh.axes else "one rank"
    say(f"a training step on {of}, recompute={level}")
    say(f"{sizes_line(sizes)}\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    for side in ("left", "right", "left"):
        table.add_column(justify=side, no_wrap=side == "right" or None, overflow="fold")  # type: ignore[arg-type]
    for name, each in _rows(found).items():
        number = each.number(sizes)
        table.add_row(name, amount(number, "FLOP") if "FLOPs" in name else f"{int(number):,}", Text(str(each)))
    console().print(table)
    for name, more in padding.items():
        share = more / max(int(_rows(found)[name].number(sizes)), 1)
        say(f"V_pad = {sizes['V_pad']} adds {more:,} ({share:.2%}) to {name}")
    total = sum(found.operators.values()) or 1
    listed = ", ".join(f"{key} {count / total:.1%}" for key, count in _by_operator(found)[:_SHOWN])
    say("\n" + wrapped(f"FLOPs by operator: {listed}"))
    if found.spared:
        told = (
            "causal attention is counted as its full square; the half beyond the diagonal, which compiled steps leave "
            f"out, is {amount(found.spared, 'FLOP')} of it"
        )
        say(wrapped(told))
    for kind, sent in found.sent.items():
        say(f"sends {amount(sent, 'B'):>10}  {kind}")
    _print_memory(found)


def _print_memory(found: StepCost) -> None:
    """Memory at the fullest moment, by what it is for, and the values that take most."""
    moment = found.memory
    say(f"\nmemory at its fullest, {found.fullest}, with nothing fused: {amount(moment.bytes, 'B')}")
    for category, size in sorted(moment.categories.items(), key=lambda item: -item[1]):
        if size:
            say(f"  {amount(size, 'B'):>10}  {category}")
    say("of that, the largest:")
    for name, size in moment.largest(_SHOWN):
        say(f"  {amount(size, 'B'):>10}  {name}")
