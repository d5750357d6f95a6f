"""`graphir cost`: what a step of a model costs, per rank, as formulas and as numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.inspect import PARALLEL_OPTIONS, recompute_option
from graphir.cli.options import (
    MODEL_OPTIONS,
    SIZE_OPTIONS,
    GroupedCommand,
    GroupedOption,
    config_options,
    declared,
)
from graphir.errors import ConfigError
from graphir.models.sizes import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graphir.backends.compiled.memory import MemoryPlan
    from graphir.cost import Polynomial
    from graphir.ir.graph import Graph
    from graphir.training.vocabulary import Vocabulary

_OPTIONS = (
    *(*MODEL_OPTIONS, *SIZE_OPTIONS, *PARALLEL_OPTIONS),
    *("precision", "results", "vocabulary_multiple", "optimizer", "clip"),
)
_PHASES = ("forward", "backward", "update")
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
@config_options(only=_OPTIONS)
@declared("vocabulary", VOCABULARY)
@recompute_option("What the backward pass makes again: ")
@click.option(
    "--memory",
    cls=GroupedOption,
    group="Compiler",
    type=_Bytes(),
    help="What a rank may need: the first level from --recompute on that fits, 500MB, 8GB.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def cost(vocabulary: int, recompute: str, memory: float | None, as_json: bool, **options: Any) -> int:
    """Work out what a training step costs: parameters, FLOPs, memory and bytes sent, of one rank.

    Formulas first, in the dims of the documents, numbers second. All of it is counted from the graph that runs, rows
    that only pad the vocabulary included; last comes the memory that the compiled step is planned to need.
    """
    from graphir.cost import count_elements, count_flops, mesh_sizes, node_flops, peak_memory
    from graphir.training.config import TrainConfig
    from graphir.training.parallel import Parallel
    from graphir.training.programs import training_graph

    config = TrainConfig(**options).check()
    parallel = Parallel.of(config, vocabulary)
    sizes = config.sizes(vocabulary) | parallel.vocabulary.sizes
    graph = parallel.shard(training_graph(config, parallel.vocabulary.padded), sizes)
    complete = mesh_sizes(graph, sizes)
    rows: dict[str, Polynomial] = {
        "parameters": count_elements(graph.parameters),
        "optimizer state": count_elements(graph.state),
        **{f"FLOPs, {phase}": count_flops(graph, phase) for phase in _PHASES},
    }
    by_operator: Counter[str] = Counter()
    for node in graph.nodes:
        by_operator[node.operator.key] += int(node_flops(node).number(complete))
    padding = _padding(rows, parallel.vocabulary, complete)
    peak = peak_memory(graph, sizes)
    sent = _sent(graph, complete)
    level, planned = _planned(graph, sizes, recompute, memory)
    if as_json:
        found: dict[str, Any] = {
            "mesh": str(graph.mesh),
            "sizes": complete,
            **{name: {"formula": str(each), "number": int(each.number(complete))} for name, each in rows.items()},
            "padding of the vocabulary": padding,
            "FLOPs by operator": dict(by_operator.most_common()),
            "peak bytes": peak.bytes,
            "peak at": peak.node.name if peak.node else None,
            "bytes sent": {kind: float(amount) for kind, amount in sent.items()},
            "planned": {
                "recompute": level,
                "bytes": planned.bytes,
                "arguments": planned.arguments,
                "results": planned.results,
                "arena": planned.arena,
                "scratch": planned.scratch,
                "fullest at": planned.at,
                "alive": dict(planned.alive),
            },
        }
        click.echo(json.dumps(found, indent=2))
        return 0
    _print(graph, rows, padding, by_operator, sent, complete)
    where = f" at {peak.node.name}" if peak.node else ""
    click.echo(f"\nmemory of values at most {_bytes(peak.bytes)}{where}, with nothing fused; the largest then:")
    for value, size in peak.values[:_SHOWN]:
        click.echo(f"  {_bytes(size):>10}  {value.name} {value.type}")
    click.echo(f"\ncompiled, recompute={level}: {planned}")
    return 0


def _padding(rows: Mapping[str, Polynomial], vocabulary: Vocabulary, sizes: Mapping[str, int]) -> dict[str, int]:
    """How much of each row of the table is there only because V_pad is more than V; nothing if it is not."""
    if not vocabulary.padded:
        return {}
    tokens = {**sizes, **vocabulary.unpadded}
    return {name: round(each.number(sizes) - each.number(tokens)) for name, each in rows.items()}


def _planned(graph: Graph, sizes: dict[str, int], level: str, memory: float | None) -> tuple[str, MemoryPlan]:
    """The level of recomputation, the first from `level` on that fits into `memory`, and the plan of the step.

    The step returns the loss and the new content of what it updates.
    """
    from graphir import compile
    from graphir.backends.compiled.memory import MemoryPlan
    from graphir.ir.dims import dim_names
    from graphir.passes import LEVELS

    if level not in LEVELS:
        raise ConfigError(f"--recompute {level} is no level; choose from {', '.join(LEVELS)}")
    known = {name: sizes[name] for name in dim_names([graph.dims]) if name in sizes}
    fetch = [graph.outputs[0].name, *(value.name for value in graph.updates.values())]
    for each in LEVELS[LEVELS.index(level) :] if memory is not None else (level,):
        # What costs are asked of may run elsewhere.
        executable = compile(graph, known, fetch=fetch, recompute=each, memory=math.inf)
        plan = executable.memory
        assert isinstance(plan, MemoryPlan)
        if memory is None or plan.bytes <= memory:
            return each, plan
    raise ConfigError(f"no level of recomputation fits into --memory {memory:g}; the last needs more: {plan}")


def _sent(graph: Graph, sizes: dict[str, int]) -> dict[str, Fraction]:
    """Bytes that one rank sends in a step, ring algorithm, by collective and axes."""
    from graphir.cost import axes_of, collective_cost

    found: dict[str, Fraction] = {}
    for node in graph.nodes:
        if node.operator.relayout is not None:
            amount = collective_cost(node, graph.mesh).each.number(sizes)
            if amount:
                kind = f"{node.operator.key} over {' and '.join(axes_of(node))}, {node.meta.phase}"
                found[kind] = found.get(kind, Fraction(0)) + amount
    return found


def _print(
    graph: Graph,
    rows: dict[str, Polynomial],
    padding: dict[str, int],
    by_operator: Counter[str],
    sent: dict[str, Fraction],
    sizes: dict[str, int],
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    of = f"one of {graph.mesh.size} ranks ({graph.mesh})" if graph.mesh.axes else "one rank"
    table = Table(title=f"a training step on {of}", box=None, title_justify="left", pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("number", justify="right", overflow="fold")
    if padding:
        table.add_column(f"V_pad = {sizes['V_pad']} adds", justify="right", overflow="fold")
    table.add_column("formula", overflow="fold")
    for name, each in rows.items():
        number = int(each.number(sizes))
        # A row that is all zero, as SGD's state is, has no shares.
        extra = [f"{padding[name]:,} ({padding[name] / max(number, 1):.2%})"] if padding else []
        table.add_row(name, f"{number:,}", *extra, str(each))
    console.print(table)
    total = sum(by_operator.values())
    listed = ", ".join(f"{key} {count / total:.1%}" for key, count in by_operator.most_common(_SHOWN))
    console.print(f"\nFLOPs by operator: {listed}", highlight=False)
    for kind, amount in sent.items():
        console.print(f"sends {_bytes(amount):>10}  {kind}", highlight=False)


def _bytes(count: Fraction | int) -> str:
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"
