"""`graphir why`: every collective of a model, with its reason, its partner and its price."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.check import setting_of, setting_options
from graphir.cli.options import GroupedCommand, given
from graphir.cli.tables import alike, amount, beside_layer, say, sizes_line, spanned, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphir.checking import Setting
    from graphir.ir.layout import Mesh
    from graphir.passes import Left
    from graphir.why import Explanation

_LAYER = re.compile(r"layer(\d+)")
#: A number at the end of a word, of the optimizer's `square_sum7` say.
_NUMBER = re.compile(r"(?<=[a-z])\d+\b")
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
    from graphir.ir.dims import shape_text
    from graphir.why import explain

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
            "left": [
                {"name": value.name, "shape": shape_text(value.shape), "axis": axis, "reason": reason}
                for value, axis, reason in setting.left(single)
            ],
        }
        click.echo(json.dumps(data, ensure_ascii=False, indent=1))
        return 0
    _print(setting, algorithm, [each for each in found if each.total], parallel.mesh)
    _print_left(setting.left(single))
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


def _print(setting: Setting, algorithm: str, found: Sequence[Explanation], mesh: Mesh) -> None:
    say(f"{setting.title}, {algorithm}")
    say(f"{sizes_line(setting.complete_sizes())}\n")
    for block, members in alike(_blocks(found), _same):
        say(f"{block}, {len(members)} alike; of each:" if len(members) > 1 else f"{block}:")
        first = members[0]
        for kind in _kinds(first):
            _print_kind(kind, mesh)
        _print_sums(block, first, len(members))
    _print_sums("all", found)


def _print_kind(found: Sequence[Explanation], mesh: Mesh) -> None:
    """Collectives of one kind in a block, and below them a line for each thing to be told of them."""
    first, inside = found[0], f"{found[0].block}/"
    names = ", ".join(each.node.name for each in found)
    over = f"{', '.join(first.cost.axes)} = {mesh.count(first.cost.axes)}"
    say(wrapped(f"{names}  {first.node.meta.phase}, over {over}".replace(inside, ""), indent=2))
    several = len(found) > 1
    sum_of_all = sum(each.total for each in found)
    told = (
        ("because", _unnamed(first.cause) if several else first.cause),
        ("for", _unnamed(first.need) if several else first.need),
        ("partner", _partners(found)),
        (
            "sends",
            f"{first.cost.each}: {amount(first.each, 'B')} a rank{' and collective' * several}, "
            f"{amount(sum_of_all, 'B')} in all",
        ),
    )
    for label, text in told:
        say(wrapped(text.replace(inside, ""), f"{label:<9}", 4))


def _partners(found: Sequence[Explanation]) -> str:
    """`identity on W_Q, W_K`: of one kind, all are an identity on something, or none is."""
    kind, on, _ = found[0].partner.partition(" on ")
    names = dict.fromkeys(each.partner.removeprefix(f"{kind}{on}") for each in found) if on else {}
    return f"{kind}{on}{', '.join(names)}" if on else ", ".join(dict.fromkeys(each.partner for each in found))


def _kinds(found: Sequence[Explanation]) -> list[list[Explanation]]:
    """The collectives of a block, those together that differ in names alone, in the order of the first of a kind."""
    kinds: dict[tuple[object, ...], list[Explanation]] = {}
    for each in found:
        told = _unnamed(each.cause), _unnamed(each.need), each.partner.partition(" on ")[0]
        key = (each.node.operator.key, each.node.meta.phase, each.cost.axes, str(each.cost.each), *told)
        kinds.setdefault(key, []).append(each)
    return list(kinds.values())


def _unnamed(text: str) -> str:
    """`matmul(…) as X` of `layer0/mlp/Z_up_lin = matmul(…) as X`, for each part."""
    return _NAMED.sub("", text)


def _same(one: Sequence[Explanation], other: Sequence[Explanation]) -> bool:
    """Whether two layers say the same, but for their numbers."""
    return [_in_layer(each) for each in one] == [_in_layer(each) for each in other]


def _in_layer(each: Explanation) -> tuple[object, ...]:
    """All that is told of a collective; other layers by how far they are away, what else is numbered by its name."""
    here = int(each.block.removeprefix("layer")) if _LAYER.fullmatch(each.block) else 0

    def relative(text: str) -> str:
        return _NUMBER.sub("", _LAYER.sub(lambda found: f"layer {int(found[1]) - here:+d}", text))

    told = map(relative, (each.node.name, each.cause, each.need, each.partner))
    return *told, each.node.meta.phase, each.cost.axes, str(each.cost.each), each.total


def _print_sums(block: str, group: Sequence[Explanation], times: int = 1) -> None:
    sums = _sums(block, group)
    counts = ", ".join(f"{count} {kind}" for kind, count in sums["counts"].items()) or "no collectives"
    each = ", each of them" if times > 1 else ""
    say(wrapped(f"{block}: {counts}; {amount(sums['bytes'], 'B')} in all{each}") + "\n")


def _print_left(left: Sequence[Left]) -> None:
    """By axis and reason the arguments that are whole, those of layers once."""
    from graphir.ir.dims import shape_text

    found: dict[str, dict[str, list[str]]] = {}
    for value, axis, reason in left:
        told, alike = f"whole along {axis}, because {reason}:", f"{beside_layer(value.name)} {shape_text(value.shape)}"
        found.setdefault(told, {}).setdefault(alike, []).append(f"{value.name} {shape_text(value.shape)}")
    for told, names in found.items():
        say(wrapped(told))
        say(wrapped(", ".join(map(spanned, names.values())), indent=2))
