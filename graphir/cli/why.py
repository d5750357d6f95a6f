"""`graphir why`: every collective of a model, with its reason, its partner and its price."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.check import console, setting_of, setting_options
from graphir.cli.options import GroupedCommand, given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphir.checking import Explanation
    from graphir.ir.layout import Mesh

_COLUMNS = ("collective", "over", "pass", "because", "needed by", "partner", "each rank sends", "bytes", "in all")


@click.command(cls=GroupedCommand)
@setting_options
@click.option(
    "--algorithm",
    type=click.Choice(("ring", "direct", "naive")),
    default="ring",
    show_default=True,
    help="How ranks reduce and gather.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def why(context: click.Context, /, what: str, algorithm: str, as_json: bool, **options: Any) -> int:
    """Tell why each collective is there, and what it sends.

    Asked of the documents' Transformer, of another MODEL, or of a graph of your own.

    For each: what made its operand pending or split, what needs it otherwise, what stands for it in the other pass,
    and the bytes that a rank sends, as a formula and as a number. Slices send nothing and are left out of the table.
    """
    from graphir.checking import explain

    setting = setting_of(what, options, given(context))
    single = setting.single()
    parallel = setting.parallel(single)
    found = explain(parallel, setting.complete_sizes(), algorithm)
    if as_json:
        data = {
            "title": setting.title,
            "algorithm": algorithm,
            "sizes": setting.complete_sizes(),
            "collectives": [each.as_dict() for each in found],
            "blocks": [_sums(block, each) for block, each in _blocks(found)],
            "total": _sums("all", found),
        }
        click.echo(json.dumps(data, ensure_ascii=False, indent=1))
        return 0
    _print(setting.title, algorithm, [each for each in found if each.total], parallel.mesh)
    return 0


def _blocks(found: Sequence[Explanation]) -> list[tuple[str, list[Explanation]]]:
    """The collectives of each block, blocks in the order of their first."""
    order = {block: position for position, block in enumerate(dict.fromkeys(each.block for each in found))}
    ordered = sorted(found, key=lambda each: order[each.block])
    return [(block, list(group)) for block, group in groupby(ordered, key=lambda each: each.block)]


def _sums(block: str, found: Sequence[Explanation]) -> dict[str, Any]:
    """How many collectives of each kind, by pass, and the bytes of all."""
    counts: dict[str, int] = {}
    for each in found:
        if each.total:
            key = f"{each.node.operator.key} {each.node.meta.phase}"
            counts[key] = counts.get(key, 0) + 1
    return {"block": block, "counts": counts, "bytes": sum(each.total for each in found)}


def _print(title: str, algorithm: str, found: Sequence[Explanation], mesh: Mesh) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(f"{title}, {algorithm}", style="bold", markup=False)
    for block, group in _blocks(found):
        table = Table(box=None, pad_edge=False, header_style="bold", title=block, title_justify="left")
        for heading in _COLUMNS:
            table.add_column(heading, overflow="fold", justify="right" if heading in ("bytes", "in all") else "left")
        for each in group:
            name = each.node.name.removeprefix(f"{block}/")
            over = f"{', '.join(each.cost.axes)} = {mesh.count(each.cost.axes)}"
            sent = f"{float(each.each):.0f}", str(each.total)
            cells = (name, over, each.node.meta.phase, each.cause, each.need, each.partner, str(each.cost.each), *sent)
            table.add_row(*(Text(cell.replace(f"{block}/", "")) for cell in cells))
        out.print(table)
        _print_sums(block, group)
    _print_sums("all", found)


def _print_sums(block: str, group: Sequence[Explanation]) -> None:
    sums = _sums(block, group)
    counts = ", ".join(f"{count} {kind}" for kind, count in sums["counts"].items()) or "no collectives"
    console().print(f"{block}: {counts}; {sums['bytes']:,} bytes in all\n", markup=False, soft_wrap=True)
