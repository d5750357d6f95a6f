"""`graphir profile`: where the time of a step goes, node by node, and how near it comes to its products alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.inspect import PARALLEL_OPTIONS
from graphir.cli.options import (
    MODEL_OPTIONS,
    SIZE_OPTIONS,
    GroupedCommand,
    GroupedOption,
    backend_options,
    config_options,
    declared,
)
from graphir.errors import ConfigError, DimError
from graphir.models.sizes import VOCABULARY

if TYPE_CHECKING:
    from graphir.backends.numpy.profile import Measure, Profile
    from graphir.ir.graph import Graph
    from graphir.training.config import TrainConfig

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
@config_options(only=_OPTIONS)
@declared("vocabulary", VOCABULARY)
@_profile(
    "--what",
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
def profile(
    vocabulary: int,
    what: str,
    by: str,
    threads: int | None,
    repetitions: int,
    top: int,
    draw: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Show where the time of a step goes, node by node, beside its floor: what its matrix products alone take.

    The model is compiled and run on random tokens, with a clock around every call. Close other programs first.
    """
    from graphir.drawing.profile import draw_profile, format_of
    from graphir.files import write_atomically
    from graphir.training.config import TrainConfig

    for name, number, least in (
        ("repetitions", repetitions, 1),
        ("top", top, 0),
    ):
        if number is not None and number < least:
            raise ConfigError(f"--{name} must be at least {least}, not {number}")
    config = TrainConfig(**options).check()
    # Before anything is measured, so that no measurement is lost to a slip.
    format = None if draw is None else format_of(draw)
    found, sizes = _measure(config, vocabulary, what, threads, repetitions)
    if as_json:
        click.echo(json.dumps(_summary(found, sizes, what) | {"profile": found.as_dict()}, indent=1))
    else:
        _print(found, config, sizes, what, by, top)
    if draw is not None and format is not None:
        picture = draw_profile(found, format, f"Where the time of {_WHAT[what]} goes\n{_model(config, sizes)}")
        write_atomically(Path(draw), lambda file: file.write(picture))
        click.echo(draw, err=as_json)
    return 0


def _measure(
    config: TrainConfig, vocabulary: int, what: str, threads: int | None, repetitions: int
) -> tuple[Profile, dict[str, int]]:
    """The profile, and the dims of the model in numbers."""
    import numpy as np

    import graphir as gi
    from graphir.backends.numpy import NumpyExecutable
    from graphir.ir.dims import dim_names
    from graphir.training.parallel import Parallel

    parallel = Parallel.of(config, vocabulary)
    sizes = config.sizes(vocabulary) | parallel.vocabulary.sizes
    graph, fetch = _graph(config, what, parallel.vocabulary.padded)
    needed = {name: sizes[name] for name in dim_names([graph.dims]) if name in sizes}
    try:
        # A step that updates owns its parameters: the new ones are written over the old.
        donate = what == "train"
        run = gi.compile(parallel.shard(graph, needed), needed, fetch=fetch, threads=threads, donate=donate)
    except DimError as error:
        raise ConfigError(f"these sizes make no model: {error}") from None
    assert isinstance(run, NumpyExecutable)
    T, Y = np.random.default_rng(config.seed).integers(0, vocabulary, (2, config.batch, config.sequence))
    arrays = parallel.vocabulary.initialize(graph, needed, config.seed)
    batch = {"T": T, "Y": Y, "seed": config.seed, "step": 0}
    return run.profile(arrays, batch, repetitions=repetitions), sizes


def _graph(config: TrainConfig, what: str, padded: bool) -> tuple[Graph, list[str] | None]:
    """The graph, and what of it is fetched."""
    from graphir.models import transformer
    from graphir.passes import autodiff
    from graphir.training.programs import training_graph

    if what == "train":
        graph = training_graph(config, padded)
        loss = next(value.name for value in graph.outputs if value.local_name == "L")
        return graph, [loss, *(value.name for value in graph.updates.values())]
    model = transformer(**config.model_options(), decode=None, padded=padded)
    return (autodiff(model), None) if what == "step" else (model, None)


# -- what is shown ----------------------------------------------------------------------------------------


def _summary(found: Profile, sizes: dict[str, int], what: str) -> dict[str, Any]:
    return {
        "what": what,
        "sizes": sizes,
        "step": found.plain,
        "tokens per second": sizes["B"] * sizes["S"] / found.plain,
        "floor": found.floor,
        "step / floor": found.ratio,
        "slowdown": found.slowdown,
    }


def _model(config: TrainConfig, sizes: dict[str, int]) -> str:
    dims = " ".join(f"{name}={size}" for name, size in sizes.items())
    on = f", {config.mesh()}" if config.mesh().axes else ""
    return f"{config.layers} layers, {dims}{on}"


def _print(found: Profile, config: TrainConfig, sizes: dict[str, int], what: str, by: str, top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    groups = list(found.by(by).items())
    shown = groups[: top or None]
    # A pipe has no width of its own; this one holds every column.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    threads = f"{found.threads} thread{'s' * (found.threads > 1)}"
    console.print(f"{_WHAT[what]} of {_model(config, sizes)}, on {threads}\n", markup=False, soft_wrap=True)
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
    console.print(table)
    for line in (*_totals(found, sizes), *found.fallbacks):
        console.print(line, markup=False, soft_wrap=True)


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


def _totals(found: Profile, sizes: dict[str, int]) -> list[str]:
    """What the step takes in all, and what of that is nobody's work."""
    kinds = {kind: measure.mean / found.step for kind, measure in found.by("kind").items()}
    floor = "" if found.ratio is None else f"  {found.ratio:.2f} × floor ({1e3 * found.floor:.2f} ms of products alone)"
    idle = ", ".join(f"{kind} {kinds.get(kind, 0):.1%}" for kind in ("waiting", "overhead", "binding"))
    lines = [
        f"\nstep {1e3 * found.plain:.2f} ms  {sizes['B'] * sizes['S'] / found.plain:,.0f} tokens/s{floor}",
        f"of it {idle}; medians of {found.repetitions} steps, which profiling slows by {found.slowdown - 1:.1%}",
    ]
    if found.step < _QUIET * found.profiled:
        lines.append(
            f"note: rows add up to {found.step / found.profiled:.0%} of a profiled step at the median; other programs "
            f"run, so take all this as rough"
        )
    return lines
