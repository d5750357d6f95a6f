"""What `graphir why` tells of a step, in words: layers that say the same once, however many there are.

Nothing of it is asked of a deep model: two shallow ones are told, one a period of layers deeper than the other. Where
they say the same but for numbers, `layer0…3, 4 alike` and `layer0…4, 5 alike`, these go on evenly (`deeper`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from graphir.cli.tables import alike, beside_layer, spanned

if TYPE_CHECKING:
    from graphir.checking import Setting
    from graphir.why import Explanation

_LAYER = re.compile(r"layer(\d+)")
_DIGITS = re.compile(r"(\d+)")


class Told(NamedTuple):
    """A collective in words; see `Explanation`."""

    name: str
    block: str
    operator: str
    phase: str
    axes: tuple[str, ...]
    cause: str
    need: str
    partner: str
    formula: str
    each: Fraction
    total: int


class Block(NamedTuple):
    """A block, or as many `times` a layer, with what is told of the first."""

    title: str
    times: int
    told: tuple[Told, ...]


class Story(NamedTuple):
    """A step's collectives that send something, by blocks, and by axis and reason the arguments that are whole."""

    blocks: tuple[Block, ...]
    left: tuple[tuple[str, tuple[str, ...]], ...]


def tell(setting: Setting, algorithm: str) -> Story:
    """The story of a setting's step."""
    from graphir.why import explain

    single = setting.single()
    found = explain(setting.parallel(single), setting.complete_sizes(), algorithm)
    blocks = in_blocks([_told(each) for each in found if each.total])
    groups = [Block(title, len(members), tuple(members[0])) for title, members in alike(blocks, _same)]
    return Story(tuple(groups), _left(setting, single))


def tell_of_layers(setting: Callable[[int], Setting], layers: int, period: int, algorithm: str) -> Story:
    """The story of a model of so many layers, which repeat each other after `period`; `setting` makes any depth."""
    # The first and the last layer may have more to tell than those between, of which there are two at least.
    few = 3 * period + (layers - 1) % period + 1
    if layers > few + period:
        one, two = (tell(setting(depth), algorithm) for depth in (few, few + period))
        try:
            story: Story = _deeper(one, two, (layers - few) // period)
        except _UnlikeError:
            pass
        else:
            return story
    return tell(setting(layers), algorithm)


class _UnlikeError(Exception):
    """Two stories differ in more than numbers."""


def _deeper(one: Any, two: Any, more: int) -> Any:
    """What goes on from `one` to `two` in `more` such steps: numbers, also those within words; all else stays."""
    if one == two:
        return one
    if type(one) is not type(two):
        raise _UnlikeError
    if isinstance(one, (int, Fraction)):
        return one + (two - one) * more
    ends = (_DIGITS.split(one), _DIGITS.split(two)) if isinstance(one, str) else (one, two)
    if len(ends[0]) != len(ends[1]):
        raise _UnlikeError
    if not isinstance(one, str):
        parts = [_deeper(first, second, more) for first, second in zip(*ends, strict=True)]
        return type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)
    words, numbers = ([each[start::2] for each in ends] for start in (0, 1))
    if words[0] != words[1]:
        raise _UnlikeError
    grown = [str(int(first) + (int(second) - int(first)) * more) for first, second in zip(*numbers, strict=True)]
    return "".join(part for pair in zip(words[0], [*grown, ""], strict=True) for part in pair)


def in_blocks(found: Sequence[Told]) -> list[tuple[str, list[Told]]]:
    """The collectives of each block, blocks in the order of their first."""
    order = {block: position for position, block in enumerate(dict.fromkeys(each.block for each in found))}
    ordered = sorted(found, key=lambda each: order[each.block])
    return [(block, list(group)) for block, group in groupby(ordered, key=lambda each: each.block)]


def _told(each: Explanation) -> Told:
    return Told(
        each.node.name,
        each.block,
        each.node.operator.key,
        each.node.meta.phase,
        each.cost.axes,
        each.cause,
        each.need,
        each.partner,
        str(each.cost.each),
        each.each,
        each.total,
    )


def _same(one: Sequence[Told], other: Sequence[Told]) -> bool:
    """Whether two layers say the same, but for their numbers."""
    return [_in_layer(each) for each in one] == [_in_layer(each) for each in other]


def _in_layer(each: Told) -> tuple[object, ...]:
    """All that is told of a collective; other layers by how far they are away."""
    here = int(each.block.removeprefix("layer")) if _LAYER.fullmatch(each.block) else 0

    def relative(text: str) -> str:
        return _LAYER.sub(lambda found: f"layer {int(found[1]) - here:+d}", text)

    told = map(relative, (each.name, each.cause, each.need, each.partner))
    return *told, each.phase, each.axes, each.formula, each.total


def _left(setting: Setting, single: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """By axis and reason the arguments that are whole, those of layers once."""
    from graphir.ir.dims import shape_text

    found: dict[str, dict[str, list[str]]] = {}
    for value, axis, reason in setting.left(single):
        told, alike = f"whole along {axis}, because {reason}:", f"{beside_layer(value.name)} {shape_text(value.shape)}"
        found.setdefault(told, {}).setdefault(alike, []).append(f"{value.name} {shape_text(value.shape)}")
    return tuple((told, tuple(map(spanned, names.values()))) for told, names in found.items())
