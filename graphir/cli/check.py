"""`graphir check`: exit code 0 if rounding explains every deviation, 1 if not, 2 for what the user can mend."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.checking.options import SettingOptions
from graphir.cli.load import graph_argument, graph_options, subject
from graphir.cli.options import GroupedCommand, all_declared, backend_option, backend_options, declared, given
from graphir.cli.ranks import ENVIRONMENT, ranks_option, start_ranks
from graphir.cli.tables import beside_layer, console, folded, sizes_line, spanned
from graphir.errors import ConfigError, GraphirError
from graphir.models.sizes import DIMS, VOCABULARY, WEIGHTS, Sizes
from graphir.options import options_of
from graphir.training.config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod

    from graphir.checking import Campaign, Comparison, Outcome, Report, Setting

#: The mesh where no axis is named.
_USUAL = {"dp": 2, "tp": 3}
#: SettingOptions that follow from the mesh, or from a dump, where they are left out: ranks and sizes.
_OPEN = {
    name: replace(each, default=None, help=each.help.partition("  [")[0], group=group)
    for group, options in (
        ("Parallel", {axis: options_of(TrainConfig)[axis] for axis in ("dp", "cp", "tp")}),
        ("Model", {**options_of(Sizes), "vocabulary": VOCABULARY}),
    )
    for name, each in options.items()
}


def setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds what `setting_of` makes a setting of: a model or a graph of one's own, and options."""
    return graph_argument()(graph_options(all_declared({**_OPEN, **options_of(SettingOptions)})(function)))


def setting_of(what: str, options: Mapping[str, Any], written: Collection[str], *, small: bool = False) -> Setting:
    """The setting that the options of `setting_options` ask for; `written` are those that the user wrote.

    A `small` one of a model by name has its parts, but not its sizes. One with its weights is as large as these: they
    are updated where that is asked for alone, since it takes more memory than all else.
    """
    from graphir.checking import Setting
    from graphir.ir.layout import Mesh

    told = {name: options[name] for name in _OPEN if options[name] is not None}
    mesh = Mesh({name: count for name, count in told.items() if name not in DIMS} or _USUAL)
    chosen = {name: options[name] for name in options_of(SettingOptions)}
    asked = subject(what, {**options, "dp": mesh.sizes.get("dp")}, written, small=small)
    if small and asked.weights is not None and "optimizer" not in written:
        chosen["optimizer"] = "none"
    return Setting(mesh=mesh, sizes=asked.sizes, graph=asked.graph, weights=asked.weights, **chosen)


@click.command(cls=GroupedCommand, environment=ENVIRONMENT)
@setting_options
@declared("weights", WEIGHTS)
@click.option("--inject", is_flag=True, help="Put faults in, one after the other, and count who finds them.")
@click.option("--dump", "folder", metavar="DIR", help="Check the tensors in DIR, a file a rank, instead of a run.")
@click.option("--map", "rules", metavar="FILE", help="What the names in the dump are called here, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@ranks_option("Parallel")
@backend_option("Parallel")
@backend_options("threads", "kernels", group="Parallel")
@click.pass_context
def check(
    context: click.Context,
    /,
    what: str,
    inject: bool,
    folder: str | None,
    rules: str | None,
    as_json: bool,
    ranks: str | None,
    backend: str,
    threads: int | None,
    kernels: str | None,
    **options: Any,
) -> int:
    """Compare a parallel run with the run on one rank, tensor by tensor.

    Forward, backward and update run on simulated ranks, or, started by mpiexec, on real ones, and every tensor is put
    together and compared with the single run's. What departs by more than rounding explains is told, the first node
    in the order of computation with its ranks, its rule and its line. --plan all checks every ready-made plan;
    --backend cupy runs the ranks on a GPU, and compares with the run on the processor. MODEL is the documents'
    Transformer by default; FILE.py:FUNCTION is a graph of your own. A model with its weights is not updated, unless
    --optimizer says how, which takes about twice the memory: of SmolLM2-135M on three ranks 11 GB are taken without.

    What runs is the program that training runs, compiled with --threads and --kernels: once to return every tensor,
    once its results alone. Then the interpreter runs the same graph, node by node; where the two part, the fault is
    in graphir and not in the plan, and that is said first.

    --dump takes the tensors of another program: rank0.safetensors (or .npz), rank1…, each with that rank's blocks by
    name; parameters, T and Y included.
    """
    if inject and folder is not None:
        raise click.UsageError("--inject puts faults into runs of its own; it has no use for --dump")
    if rules is not None and folder is None:
        raise click.UsageError("--map says what the names in a dump are called; give --dump, too")
    ranks, leads = start_ranks(ranks, backend)
    if ranks != "simulated" and (inject or folder is not None):
        raise click.UsageError("--inject and --dump need no ranks but simulated ones; start them without mpiexec")
    if given(context) & {"backend", "threads", "kernels"} and (inject or folder is not None):
        raise click.UsageError(
            "--inject and --dump compare on the processor and compile nothing; leave out --backend, --threads and "
            "--kernels"
        )
    if folder is not None:
        if "dropout" in given(context) and options["dropout"]:
            raise ConfigError("masks of another program cannot be drawn here; dump a run without dropout")
        options["dropout"] = 0.0
    setting = setting_of(what, options, given(context), small=True)
    if inject:
        return _inject(setting, as_json)
    if folder is not None:
        report = _check_dump(setting, Path(folder), None if rules is None else Path(rules))
        return _show([report], as_json)
    found = _check_runs(setting, {"ranks": ranks, "backend": backend, "threads": threads, "kernels": kernels})
    from graphir.backends.communicator import communicator_for

    return communicator_for(setting.mesh, ranks, backend=backend).agree(_show(found, as_json) if leads else 0)


def _check_runs(setting: Setting, options: Mapping[str, Any]) -> list[Report | str]:
    """A report for each plan, compiled with `options`; for one of many that does not fit, why."""
    from graphir.backends import plan
    from graphir.checking import check, settings

    found: list[Report | str] = []
    several = list(settings(setting))
    for each in several:
        single = each.single()
        try:
            parallel = each.parallel(single)
            plan(parallel, each.complete_sizes())
        except GraphirError as error:
            if len(several) == 1:
                raise
            found.append(f"{each.title}: does not fit: {error}")
            continue
        sizes, arguments = each.complete_sizes(), each.arguments(single)
        found.append(check(single, parallel, sizes, arguments, title=each.title, **options))
    return found


def _check_dump(setting: Setting, folder: Path, rules: Path | None) -> Report:
    from graphir.checking import assign, check_dump, infer_sizes, read_dump, read_rules

    setting = replace(setting, optimizer="none")
    dump = read_dump(folder, setting.mesh)
    mapping = () if rules is None else read_rules(rules)
    single = setting.single()
    # The layouts say what sizes the blocks speak of; the sizes may in turn say which dim a plan splits.
    parallel = setting.parallel(single)
    sizes = infer_sizes(assign(dump, parallel, mapping), parallel, setting.sizes or {})
    missing = {name: None for each in parallel.dims for name, _ in each.expanded[1] if name not in sizes}
    if "N_H" in missing:
        raise ConfigError("the number of heads N_H follows from no tensor; give --heads")
    if missing:
        raise ConfigError(f"no tensor says how large {', '.join(missing)} is; give it by --size")
    setting = replace(setting, sizes=sizes)
    parallel = setting.parallel(single)
    return check_dump(single, parallel, sizes, assign(dump, parallel, mapping), f"{folder} under {setting.title}")


# -- what is shown ----------------------------------------------------------------------------------------


def _show(found: Iterable[Report | str], as_json: bool) -> int:
    from graphir.checking import Report

    results = list(found)
    reports = [each for each in results if isinstance(each, Report)]
    skipped = [each for each in results if isinstance(each, str)]
    good = all(each.ok for each in reports)
    if as_json:
        data = {"ok": good, "reports": [each.as_dict() for each in reports], "skipped": skipped}
        click.echo(json.dumps(data, ensure_ascii=False, indent=1))
        return 0 if good else 1
    out = console()
    if len(reports) == 1:
        _print_blocks(out, reports[0])
    for each in reports:
        out.print(folded(each.text()), markup=False, soft_wrap=True, style="" if each.ok else "bold red")
    for text in skipped:
        out.print(folded(text), markup=False, soft_wrap=True, style="dim")
    return 0 if good else 1


def _print_blocks(out: Console, report: Report) -> None:
    """A line for each block and pass: how many values depart, and the one that is nearest to its limit or beyond.

    Layers of which none departs are together in one.
    """
    from rich.table import Table
    from rich.text import Text

    from graphir.checking.report import number

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("block", "pass", "departing", "worst", "deviation", "of rounding"):
        folds = heading in ("block", "worst")
        side: JustifyMethod = "left" if heading in ("block", "pass", "worst") else "right"
        table.add_column(heading, justify=side, no_wrap=not folds, overflow="fold")
    for (blocks, phase), values in _rows(report).items():
        worst = max(values, key=lambda each: each.excess)
        of = next((block for block in blocks if worst.name.startswith(f"{block}/")), "")
        name = worst.name.removeprefix(f"{of}/")
        cells = (
            spanned(blocks),
            phase,
            f"{sum(each.departs for each in values)} of {len(values)}",
            f"{name} in {of.partition('/')[0]}" if of and len(blocks) > 1 else name,
            number(worst.deviation),
            f"{worst.excess:.0%}" if worst.excess < 1e3 else f"{worst.excess:.0e} x",
        )
        table.add_row(*map(Text, cells), style="red" if worst.departs else None)
    out.print(table)
    out.print(sizes_line(report.sizes), markup=False, soft_wrap=True)


def _rows(report: Report) -> dict[tuple[tuple[str, ...], str], list[Comparison]]:
    """The comparisons by blocks and pass: those of each block, or of a block of all layers in which none departs."""
    runs: dict[tuple[str, str], tuple[list[str], list[Comparison]]] = {}
    for (block, phase), values in report.blocks().items():
        departs = any(each.departs for each in values)
        blocks, found = runs.setdefault((block if departs else beside_layer(block), phase), ([], []))
        blocks.append(block)
        found.extend(values)
    return {(tuple(blocks), phase): found for (_, phase), (blocks, found) in runs.items()}


# -- faults -----------------------------------------------------------------------------------------------


def _inject(setting: Setting, as_json: bool) -> int:
    from graphir.checking import Campaign, faults_of, inject, settings

    good, data = True, []
    out = console()
    for each in settings(setting):
        single = each.single()
        parallel = each.parallel(single)
        faults = list(faults_of(parallel))
        arguments = each.arguments(single)
        outcomes = inject(single, parallel, each.complete_sizes(), arguments, faults=faults)
        campaign = Campaign(tuple(_tracked(outcomes, len(faults), each.title)))
        good &= campaign.ok
        if as_json:
            data.append({"title": each.title, "faults": [outcome.as_dict() for outcome in campaign.outcomes]})
        else:
            _print_campaign(out, each.title, campaign)
    if as_json:
        click.echo(json.dumps({"ok": good, "campaigns": data}, ensure_ascii=False, indent=1))
    return 0 if good else 1


def _tracked(outcomes: Iterator[Outcome], count: int, title: str) -> Iterable[Outcome]:
    from rich.console import Console
    from rich.progress import track

    error = Console(stderr=True)
    return track(outcomes, title, total=count, console=error, transient=True, disable=not error.is_terminal)


def _print_campaign(out: Console, title: str, campaign: Campaign) -> None:
    from rich.table import Table
    from rich.text import Text

    columns = ("injected", "type check", "parity check", "located", "type check alone", "harmless", "missed")
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    table.add_column("fault")
    for heading in columns:
        table.add_column(heading, justify="right")
    rows = campaign.counts()
    for kind, counts in rows:
        table.add_row(Text(kind), *(str(counts.get(column, 0)) for column in columns))
    table.add_row("all", *(str(sum(counts.get(column, 0) for _, counts in rows)) for column in columns), style="bold")
    out.print(table)
    for outcome in campaign.outcomes:
        if outcome in campaign.missed:
            seen = f"first departure {outcome.found.name}" if outcome.found else "no departure"
            out.print(folded(f"missed: {outcome.fault}: {seen}"), markup=False, soft_wrap=True, style="bold red")
        elif outcome.harmless:
            told = "the type check alone finds" if outcome.typed else "harmless:"
            out.print(folded(f"{told} {outcome.fault}: {outcome.harmless}"), markup=False, soft_wrap=True, style="dim")
    caught, missed = sum(outcome.located for outcome in campaign.outcomes), len(campaign.missed)
    text = f"{len(campaign.outcomes)} faults, {caught} found where they are, with every rank affected; {missed} missed"
    out.print(folded(text), markup=False, soft_wrap=True)
