"""`graphir why`: every collective of a model, with its reason, its partner and its price."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from graphir.cli.check import setting_of, setting_options
from graphir.cli.options import GroupedCommand, given
from graphir.cli.step import depth_of
from graphir.cli.tables import amount, say, sizes_line, wrapped
from graphir.cli.told import Block, Story, Told, tell, tell_of_layers
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graphir.checking import Setting
    from graphir.ir.layout import Mesh
    from graphir.why import Explanation

#: A kind of collective, the bytes that one sends, and how many there are.
_Counted: TypeAlias = tuple[str, int, int]

_PHASES = (FORWARD, BACKWARD, UPDATE)
#: What a text calls a node before it says what it does.
_NAMED = re.compile(r"[^\s;]+ = (?=\w+\()")


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
    and the bytes that a rank sends, as a formula and as a number. Slices send nothing and are left out.
    Layers that say the same are told once. At the end stands which arguments every rank holds whole although the
    plan splits others of their kind.
    """
    told = given(context)
    if as_json:
        click.echo(json.dumps(_data(setting_of(what, options, told), algorithm), ensure_ascii=False, indent=1))
        return 0
    layers, period = depth_of(what, options, told)

    def of_layers(layers: int | None) -> Setting:
        changed = {} if layers is None else {"layers": layers}
        return setting_of(what, {**options, **changed}, told | changed.keys())

    setting = of_layers(None if layers is None else min(layers, 1))
    story = tell(setting, algorithm) if layers is None else tell_of_layers(of_layers, layers, period, algorithm)
    _print(setting, algorithm, story)
    return 0


def _data(setting: Setting, algorithm: str) -> dict[str, Any]:
    from graphir.ir.dims import shape_text
    from graphir.why import explain

    single = setting.single()
    found = explain(setting.parallel(single), setting.complete_sizes(), algorithm)
    blocks: dict[str, list[Explanation]] = {}
    for each in found:
        blocks.setdefault(each.block, []).append(each)
    return {
        "title": setting.title,
        "algorithm": algorithm,
        "sizes": setting.complete_sizes(),
        "collectives": [each.as_dict() for each in found],
        "blocks": [_sums(block, [_counted(each) for each in members]) for block, members in blocks.items()],
        "total": _sums("all", map(_counted, found)),
        "left": [
            {"name": value.name, "shape": shape_text(value.shape), "axis": axis, "reason": reason}
            for value, axis, reason in setting.left(single)
        ],
    }


def _counted(each: Explanation) -> _Counted:
    return f"{each.node.operator.key} {each.node.meta.phase}", each.total, 1


def _sums(block: str, found: Iterable[_Counted]) -> dict[str, Any]:
    """How many collectives of each kind, by pass, and the bytes of all."""
    counts: dict[str, int] = {}
    total = 0
    for kind, sent, times in found:
        total += sent * times
        if sent:
            counts[kind] = counts.get(kind, 0) + times
    return {"block": block, "counts": counts, "bytes": total}


def _print(setting: Setting, algorithm: str, story: Story) -> None:
    say(f"{setting.title}, {algorithm}")
    say(f"{sizes_line(setting.complete_sizes())}\n")
    for block in story.blocks:
        say(f"{block.title}, {block.times} alike; of each:" if block.times > 1 else f"{block.title}:")
        for kind in _kinds(block.told):
            _print_kind(kind, setting.mesh)
        _print_sums(block.title, [block], ", each of them" if block.times > 1 else "", each=True)
    _print_sums("all", story.blocks)
    for told, names in story.left:
        say(wrapped(told))
        say(wrapped(", ".join(names), indent=2))


def _print_sums(title: str, blocks: Sequence[Block], of: str = "", *, each: bool = False) -> None:
    told = [(one, 1 if each else block.times) for block in blocks for one in block.told]
    sums = _sums(title, [(f"{one.operator} {one.phase}", one.total, times) for one, times in told])
    ordered = sorted(sums["counts"].items(), key=lambda pair: _PHASES.index(pair[0].split()[1]))
    counts = ", ".join(f"{count} {kind}" for kind, count in ordered) or "no collectives"
    say(wrapped(f"{title}: {counts}; {amount(sums['bytes'], 'B')} in all{of}") + "\n")


def _print_kind(found: Sequence[Told], mesh: Mesh) -> None:
    """Collectives of one kind in a block, and below them a line for each thing to be told of them."""
    first, inside = found[0], f"{found[0].block}/"
    names = ", ".join(each.name for each in found)
    over = f"{', '.join(first.axes)} = {mesh.count(first.axes)}"
    say(wrapped(f"{names}  {first.phase}, over {over}".replace(inside, ""), indent=2))
    several = len(found) > 1
    sum_of_all = sum(each.total for each in found)
    told = (
        ("because", _unnamed(first.cause) if several else first.cause),
        ("for", _unnamed(first.need) if several else first.need),
        ("partner", _partners(found)),
        (
            "sends",
            f"{first.formula}: {amount(first.each, 'B')} a rank{' and collective' * several}, "
            f"{amount(sum_of_all, 'B')} in all",
        ),
    )
    for label, text in told:
        say(wrapped(text.replace(inside, ""), f"{label:<9}", 4))


def _partners(found: Sequence[Told]) -> str:
    """`identity on W_Q, W_K`: of one kind, all are an identity on something, or none is."""
    kind, on, _ = found[0].partner.partition(" on ")
    names = dict.fromkeys(each.partner.removeprefix(f"{kind}{on}") for each in found) if on else {}
    return f"{kind}{on}{', '.join(names)}" if on else ", ".join(dict.fromkeys(each.partner for each in found))


def _kinds(found: Sequence[Told]) -> list[list[Told]]:
    """The collectives of a block, those together that differ in names alone, in the order of the first of a kind."""
    kinds: dict[tuple[object, ...], list[Told]] = {}
    for each in found:
        told = _unnamed(each.cause), _unnamed(each.need), each.partner.partition(" on ")[0]
        kinds.setdefault((each.operator, each.phase, each.axes, each.formula, *told), []).append(each)
    return list(kinds.values())


def _unnamed(text: str) -> str:
    """`matmul(…) as X` of `layer0/mlp/Z_up_lin = matmul(…) as X`, for each part."""
    return _NAMED.sub("", text)
