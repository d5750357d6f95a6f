"""`graphir profile`: where the time of a step goes, node by node, and how near it comes to its products alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.inspect import PARALLEL_OPTIONS
from graphir.cli.load import graph_argument, graph_options
from graphir.cli.options import (
    MODEL_OPTIONS,
    SIZE_OPTIONS,
    GroupedCommand,
    GroupedOption,
    backend_options,
    config_options,
    declared,
    given,
)
from graphir.cli.step import Asked, asked, config_of
from graphir.cli.tables import console, folded
from graphir.errors import ConfigError, DimError
from graphir.models.sizes import VOCABULARY

if TYPE_CHECKING:
    from graphir.backends.numpy.profile import Measure, Profile

_OPTIONS = (
    *(*MODEL_OPTIONS, *SIZE_OPTIONS, *PARALLEL_OPTIONS),
    *("vocabulary_multiple", "optimizer", "clip"),
)
_WHAT = {"forward": "the loss", "step": "the loss and all gradients", "train": "loss, gradients and update"}
_GROUPINGS = ("node", "operator", "scope", "phase", "task", "kind")
#: Where rows add up to less than this share of a profiled step, other programs must have run.
_QUIET = 0.9


def _profile(*names: str, **keywords: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=GroupedOption, group="Profile", **keywords)


@click.command(cls=GroupedCommand)
@graph_argument()
@graph_options
@config_options(only=_OPTIONS)
@declared("vocabulary", VOCABULARY)
@_profile(
    "--what",
    "part",
    type=click.Choice(list(_WHAT)),
    default="step",
    show_default=True,
    help="forward: the loss; step: all gradients, too; train: also the optimizer.",
)
@_profile(
    "--by", type=click.Choice(_GROUPINGS), default="node", show_default=True, help="What the rows are put together by."
)
@backend_options("threads", group="Profile")
@_profile("--repetitions", type=int, default=10, show_default=True, help="Steps that are profiled; medians count.")
@_profile("--top", type=int, default=20, show_default=True, help="How many rows to show; 0: all.")
@_profile("--draw", metavar="FILE", help="Draw the blocks of the model as bars, as .png, .svg or .pdf.")
@_profile("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def profile(
    context: click.Context,
    /,
    what: str,
    vocabulary: int,
    part: str,
    by: str,
    threads: int | None,
    repetitions: int,
    top: int,
    draw: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Show where the time of a step goes, node by node, beside its floor: what its matrix products alone take.

    The model, the documents' Transformer by default, is compiled and run on random arguments, with a clock around every
    call. Close other programs first.
    """
    from graphir.drawing.profile import draw_profile, format_of
    from graphir.files import write_atomically

    for name, number, least in (
        ("repetitions", repetitions, 1),
        ("top", top, 0),
    ):
        if number is not None and number < least:
            raise ConfigError(f"--{name} must be at least {least}, not {number}")
    config = config_of(options)
    # Before anything is measured, so that no measurement is lost to a slip.
    format = None if draw is None else format_of(draw)
    step = asked(what, part, config, vocabulary, options, given(context))
    found, sizes = _measure(step, config.seed, part, threads, repetitions)
    if as_json:
        data = _summary(found, sizes, part) | {"by": by, by: _groups(found, by), "profile": found.as_dict()}
        click.echo(json.dumps(data, indent=1))
    else:
        _print(found, step, sizes, part, by, top)
    if draw is not None and format is not None:
        picture = draw_profile(found, format, f"Where the time of {_WHAT[part]} goes\n{_model(step, sizes)}")
        write_atomically(Path(draw), lambda file: file.write(picture))
        click.echo(draw, err=as_json)
    return 0


def _measure(
    step: Asked, seed: int, part: str, threads: int | None, repetitions: int
) -> tuple[Profile, dict[str, int]]:
    """The profile, and the dims of the graph in numbers."""
    import graphir as gi
    from graphir.backends.numpy import NumpyExecutable
    from graphir.checking.position import draw_inputs

    single = step.build(step.layers)
    needed = step.needed(single)
    graph = step.parallel.shard(single, needed)
    # A step that updates owns its parameters: the new ones are written over the old.
    fetch = None if part != "train" else [graph.outputs[0].name, *(value.name for value in graph.updates.values())]
    try:
        run = gi.compile(graph, needed, fetch=fetch, threads=threads, donate=part == "train" and bool(graph.updates))
    except DimError as error:
        raise ConfigError(f"these sizes make no model: {error}") from None
    assert isinstance(run, NumpyExecutable)
    arrays = {**step.parallel.vocabulary.initialize(single, needed, seed), **(step.weights or {})}
    return run.profile(arrays, draw_inputs(single, needed, seed), repetitions=repetitions), dict(step.sizes)


# -- what is shown ----------------------------------------------------------------------------------------


def _summary(found: Profile, sizes: dict[str, int], part: str) -> dict[str, Any]:
    """The step and its floor, both as the profiled steps have them, and a step that nobody looks into."""
    return {
        "what": part,
        "sizes": sizes,
        "step": found.step,
        "floor": found.floor,
        "step / floor": found.ratio,
        "plain step": found.plain,
        "tokens per second": _tokens(sizes) / found.plain if _tokens(sizes) else None,
        "slowdown": found.slowdown,
    }


def _groups(found: Profile, by: str) -> dict[str, Any]:
    """The rows put together, the longest first, as the table has them."""
    return {
        name: {
            "seconds": each.mean,
            "of step": each.mean / found.step,
            "calls": each.calls,
            "FLOPs": each.flops,
            "bytes": each.bytes,
        }
        for name, each in found.by(by).items()
    }


def _tokens(sizes: Mapping[str, int]) -> int:
    """How many tokens a step takes; 0 of a graph that has no B and S."""
    return sizes.get("B", 0) * sizes.get("S", 0)


def _model(step: Asked, sizes: Mapping[str, int]) -> str:
    dims = " ".join(f"{name}={size}" for name, size in sizes.items())
    mesh = step.parallel.mesh
    name = step.name if step.layers is None else f"{step.layers} layers"
    return f"{name}, {dims}{f', {mesh}' if mesh.axes else ''}"


def _print(found: Profile, step: Asked, sizes: Mapping[str, int], part: str, by: str, top: int) -> None:
    from rich.table import Table

    groups = _by_any_layer(found, by)
    shown = groups[: top or None]
    out = console()
    threads = f"{found.threads} thread{'s' * (found.threads > 1)}"
    out.print(folded(f"{_WHAT[part]} of {_model(step, sizes)}, on {threads}\n"), markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(by, overflow="fold")
    for heading in ("ms", "of step", "× floor", "calls", "GFLOP/s", "GB/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measure in shown:
        table.add_row(name, *_cells(measure, found))
    rest = [measure for _, measure in groups[len(shown) :]]
    if rest:
        from graphir.backends.numpy.profile import total

        table.add_row(f"{len(rest)} more", *_cells(total(rest, found.threads), found), style="dim")
    out.print(table)
    for line in (*_totals(found, sizes), *found.fallbacks):
        out.print(folded(line), markup=False, soft_wrap=True)


def _by_any_layer(found: Profile, by: str) -> list[tuple[str, Measure]]:
    """The rows put together, those of layers that are alike, too: `layer*/mlp/Z_up × 12`; the longest first."""
    from graphir.backends.numpy.profile import total
    from graphir.cost import of_any_layer

    alike: dict[str, dict[str, Measure]] = {}
    for name, measure in found.by(by).items():
        alike.setdefault(of_any_layer(name), {})[name] = measure
    rows = [
        (f"{name} × {len(each)}" if len(each) > 1 else next(iter(each)), total(list(each.values()), found.threads))
        for name, each in alike.items()
    ]
    return sorted(rows, key=lambda row: -row[1].mean)


def _cells(measure: Measure, found: Profile) -> tuple[str, ...]:
    share = measure.mean / found.step
    return (
        f"{1e3 * measure.mean:.3f}",
        f"{share:.1%}",
        f"{measure.mean / found.floor:.3f}" if found.floor else "",
        f"{measure.calls:,}" if measure.calls else "",
        f"{1e-9 * measure.flop_rate:.1f}" if measure.flops else "",
        f"{1e-9 * measure.byte_rate:.1f}" if measure.bytes else "",
    )


def _totals(found: Profile, sizes: Mapping[str, int]) -> list[str]:
    """What the step takes in all, and what of that is nobody's work."""
    kinds = {kind: measure.mean / found.step for kind, measure in found.by("kind").items()}
    floor = (
        ""
        if found.ratio is None
        else f" = {found.ratio:.2f} × floor (its matrix products alone, {1e3 * found.floor:.3f} ms)"
    )
    idle = ", ".join(f"{kind} {kinds.get(kind, 0):.1%}" for kind in ("waiting", "overhead", "binding"))
    speed = f", {_tokens(sizes) / found.plain:,.0f} tokens/s" if _tokens(sizes) else ""
    lines = [
        f"\nstep {1e3 * found.step:.3f} ms{floor}",
        f"of it {idle}; medians of {found.repetitions} steps",
        f"a step that is not profiled takes {1e3 * found.plain:.3f} ms{speed}; profiling slows by "
        f"{found.slowdown - 1:.1%}",
    ]
    if found.step < _QUIET * found.profiled:
        lines.append(
            f"note: rows add up to {found.step / found.profiled:.0%} of a profiled step at the median; other programs "
            f"run, so take all this as rough"
        )
    return lines
