"""What is laid out in layers: items, the links between them, and the cells that both fill, layer by layer.

Directions are *along* (the way that data flows, from layer to layer) and *across* (from column to column); a drawing
from top to bottom and one from left to right differ in what these are called, and in nothing else.

An item takes one cell. A link that spans layers takes one in each of them, where it bends or bears its label: so in
every layer all that is there, nodes, labels and passing lines, stands side by side, and between two layers there is
nothing but lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class Pin(NamedTuple):
    """Where a link meets an item: how far across from the item's anchor, and how deep inside of its cell."""

    across: float
    depth: float = 0.0


@dataclass(frozen=True, slots=True)
class Item:
    """A node as the layout sees it: how far it reaches across, `before` and `after` its anchor, and along.

    ins, outs   pins for the links that enter and leave it, from the first to the last across
    late        whether it lies near what follows it rather than near what it follows
    bus         whether what enters it is gathered on one line, at the edge of all
    end         −1 of what lies before all else, 1 of what lies behind it
    passing     where long links that leave it pass what the short ones lead to: before it (−1), after it (1), or
                wherever it comes (0)
    """

    before: float
    after: float
    along: float
    ins: tuple[Pin, ...] = (Pin(0.0),)
    outs: tuple[Pin, ...] = (Pin(0.0),)
    late: bool = False
    bus: bool = False
    end: int = 0
    passing: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A line from one item to another, by their numbers; `label` is the room of its label: before, after, along."""

    source: int
    target: int
    weight: float = 1.0
    label: tuple[float, float, float] | None = None
    at_end: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """Items that a frame is drawn around; how far apart its sides are at least, for its title; and room inside of them.

    `head` is room inside of the first side, `tail` inside of the second one, in the frame's first layer.

    Nothing else comes between its sides, from the first to the last of its layers, but its `guests`: items that serve
    it alone, and stand where they are wanted, be that inside of it or not.
    """

    items: Sequence[int]
    guests: Sequence[int] = ()
    wide: float = 0.0
    head: float = 0.0
    tail: float = 0.0


#: The lane of a bus: behind all others.
LAST_LANE = 1 << 20


@dataclass(slots=True)
class Cell:
    """What stands in a layer: an item, a piece of a link, or of a frame's side, and the room that it needs.

    In a layer cells come in the order of their lanes: of lines that pass a frame, its sides, what is inside of it.
    """

    layer: int
    before: float = 0.0
    after: float = 0.0
    along: float = 0.0
    item: int = -1
    link: int = -1
    bus: bool = False
    lane: int = 0
    place: int = 0
    across: float = 0.0


@dataclass(slots=True)
class Segment:
    """A piece of a link between the cells of two neighbouring layers."""

    first: int
    then: int
    weight: float
    leaves: float = 0.0
    enters: float = 0.0


@dataclass
class Strip:
    """All cells, layer by layer, in order; the segments between each layer and the next, by the cells at their ends."""

    cells: list[Cell] = field(default_factory=list)
    layers: list[list[int]] = field(default_factory=list)
    segments: list[dict[tuple[int, int], Segment]] = field(default_factory=list)
    #: Per link the cells that it passes, from its source's to its target's.
    chains: list[list[int]] = field(default_factory=list)
    #: Per frame the first cells of its sides, and how far apart these are at least.
    sides: list[tuple[int, int, float]] = field(default_factory=list)


#: A link that is longer than another at the same item passes that one by, which shall be straight before it.
_PASSING = 1 / 8
#: The inside of a long link is straight before all else.
_STRAIGHT = 32.0


def make_strip(items: Sequence[Item], links: Sequence[Link], layer_of: Sequence[int]) -> Strip:
    """The strip of cells for items in these layers: items in even ones, labels of links in odd ones between."""
    strip = Strip()
    count = max(layer_of, default=-1) + 1
    strip.layers = [[] for _ in range(count)]
    strip.segments = [{} for _ in range(max(count - 1, 0))]
    for number, item in enumerate(items):
        lane = LAST_LANE if item.bus else 0
        strip.cells.append(Cell(layer_of[number], item.before, item.after, item.along, number, bus=item.bus, lane=lane))
        strip.layers[layer_of[number]].append(number)
    buses: dict[tuple[int, int], int] = {}
    length = [layer_of[link.target] - layer_of[link.source] for link in links]
    passed = _passed(links, length)
    critical = _critical(links, layer_of)
    for number, link in enumerate(links):
        chain = _chain(strip, items, link, number, layer_of, buses)
        strip.chains.append(chain)
        for place, (a, b) in enumerate(pairwise(chain)):
            weight = _STRAIGHT if 0 < place < len(chain) - 2 else link.weight * (1 + critical[number])
            if (place == 0 and passed[number][0]) or (place == len(chain) - 2 and passed[number][1]):
                weight *= _PASSING
            strip.segments[strip.cells[a].layer].setdefault((a, b), Segment(a, b, weight))
    return strip


def _passed(links: Sequence[Link], length: Sequence[int]) -> list[tuple[bool, bool]]:
    """Per link whether there is a shorter one, of like weight, at its source, and at its target."""
    at: defaultdict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
    for link, layers in zip(links, length, strict=True):
        at["from", link.source].append((layers, link.weight))
        at["to", link.target].append((layers, link.weight))
    return [
        (
            any(layers < own and weight * 2 >= link.weight for layers, weight in at["from", link.source]),
            any(layers < own and weight * 2 >= link.weight for layers, weight in at["to", link.target]),
        )
        for link, own in zip(links, length, strict=True)
    ]


def _critical(links: Sequence[Link], layer_of: Sequence[int]) -> list[float]:
    """Per link how long the longest way is that leads through it, against the longest of all."""
    ordered = sorted(range(len(links)), key=lambda number: layer_of[links[number].source])
    before, behind = [0] * len(layer_of), [0] * len(layer_of)
    for number in ordered:
        link = links[number]
        before[link.target] = max(before[link.target], before[link.source] + 1)
    for number in reversed(ordered):
        link = links[number]
        behind[link.source] = max(behind[link.source], behind[link.target] + 1)
    longest = max(before, default=0) or 1
    return [0.5 * (before[link.source] + 1 + behind[link.target]) / longest for link in links]


def _chain(
    strip: Strip,
    items: Sequence[Item],
    link: Link,
    number: int,
    layer_of: Sequence[int],
    buses: dict[tuple[int, int], int],
) -> list[int]:
    """The cells that a link passes; what leads to a bus passes those of the bus."""
    first, last = layer_of[link.source], layer_of[link.target]
    labelled = (last - 1 if link.at_end else first + 1) if link.label else -1
    bus = items[link.target].bus
    chain = [link.source]
    for layer in range(first + 1, last):
        known = buses.get((link.target, layer)) if bus else None
        if known is None:
            known = len(strip.cells)
            strip.cells.append(Cell(layer, link=number, bus=bus, lane=LAST_LANE if bus else 0))
            strip.layers[layer].append(known)
            if bus:
                buses[link.target, layer] = known
        if layer == labelled and link.label and not bus:
            cell = strip.cells[known]
            cell.before, cell.after, cell.along = link.label
        chain.append(known)
    return [*chain, link.target]
