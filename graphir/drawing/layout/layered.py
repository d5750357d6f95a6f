"""Items and links laid out in layers: from which layer, in which order, in which column, to the way of each link.

The steps are those of Sugiyama, Tagawa and Toda (1981), each a module: `layers`, `order`, `columns`, `channels`.
Within a layer lines run straight along, between layers across, so that no line meets an item or a label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from graphir.drawing.layout.borders import set_apart
from graphir.drawing.layout.channels import TRACK, assign_tracks
from graphir.drawing.layout.columns import place_across
from graphir.drawing.layout.layers import assign_layers, without_circles
from graphir.drawing.layout.order import order_cells
from graphir.drawing.layout.strip import Frame, Item, Link, Pin, Strip, make_strip

#: Room along between a layer's end and the first track; before an arrow's tip; before a label; where nothing turns.
_LEAVE, _TIP, _LABEL, _STRAIGHT = 7.0, 15.0, 5.0, 3.0


@dataclass(frozen=True, slots=True)
class Margin:
    """Room along that a group of items wants before its first layer and behind its last, as a frame does."""

    items: Sequence[int]
    before: float
    behind: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Each item's anchor, each link's corners, and the middle of each label's cell, where its line passes it.

    All across first, then along; of frames the sides alone, both across.
    """

    items: Sequence[tuple[float, float]]
    links: Sequence[tuple[tuple[float, float], ...]]
    labels: Mapping[int, tuple[float, float]]
    frames: Sequence[tuple[float, float]] = ()


def layered(
    items: Sequence[Item],
    links: Sequence[Link],
    levels: Iterable[Sequence[int]] = (),
    margins: Iterable[Margin] = (),
    frames: Sequence[Frame] = (),
    *,
    bare: bool = False,
) -> list[Placement]:
    """Places the items; `levels` are sets of them that lie in one layer, if that contradicts no link.

    `frames` share no items. What they hold stands between their sides, and nothing else does.

    With `bare` there is a second placement, level with the first and narrower: labels take no room across.
    """
    turned = without_circles(len(items), links)
    ahead = [
        replace(link, source=link.target, target=link.source) if turn else link
        for link, turn in zip(links, turned, strict=True)
    ]
    strip = make_strip(items, ahead, assign_layers(items, ahead, levels))
    order_cells(strip, items)
    set_apart(strip, frames)
    _pin(strip, items)
    placed = [_across(strip)]
    if bare:
        for cell in strip.cells:
            if cell.item < 0:
                cell.before = cell.after = 0.0
        placed.append(_across(strip))
    rows = _Rows(strip, items, placed, margins)
    return [rows.placement(ahead, turned, across) for across in placed]


def _across(strip: Strip) -> list[float]:
    place_across(strip)
    return [cell.across for cell in strip.cells]


# -- pins -------------------------------------------------------------------------------------------------


def _pin(strip: Strip, items: Sequence[Item]) -> None:
    """Gives each segment at an item the pin that suits the order of the segments there."""
    cells = strip.cells
    for segments in strip.segments:
        for near, far in ((0, 1), (1, 0)):
            at_item: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
            for key in segments:
                if cells[key[near]].item >= 0:
                    at_item[key[near]].append(key)
            for cell, keys in at_item.items():
                item = items[cells[cell].item]
                keys.sort(key=lambda key: cells[key[far]].place)
                pins = _chosen(item.ins if near else item.outs, [segments[key].weight for key in keys])
                for key, pin in zip(keys, pins, strict=True):
                    if near:
                        segments[key].enters = pin.across
                    else:
                        segments[key].leaves = pin.across


def _chosen(pins: Sequence[Pin], weights: Sequence[float]) -> list[Pin]:
    """A pin for each of the links, which come in order across: the heaviest gets the middle one if it can,
    the others those farthest from it."""
    if len(pins) == 1:
        return [pins[0]] * len(weights)
    middle = min(range(len(pins)), key=lambda i: abs(pins[i].across))
    center = (len(weights) - 1) / 2
    heaviest = max(range(len(weights)), key=lambda i: (weights[i], -abs(i - center)))
    left, right = heaviest, len(weights) - heaviest - 1
    before, behind = pins[:middle], pins[middle + 1 :]
    if left <= len(before) and right <= len(behind):
        return [*before[:left], pins[middle], *behind[len(behind) - right :]]
    first = min(max(middle - heaviest, 0), max(len(pins) - len(weights), 0))
    return [pins[min(first + i, len(pins) - 1)] for i in range(len(weights))]


# -- along ------------------------------------------------------------------------------------------------


class _Rows:
    """Where layers begin and end along, with as many tracks between them as any of several placements across needs."""

    def __init__(
        self, strip: Strip, items: Sequence[Item], placed: Sequence[Sequence[float]], margins: Iterable[Margin]
    ) -> None:
        self.strip, self.items = strip, items
        before: defaultdict[int, float] = defaultdict(float)
        behind: defaultdict[int, float] = defaultdict(float)
        for margin in margins:
            layers = [strip.cells[number].layer for number in margin.items]
            before[min(layers)] += margin.before
            behind[max(layers)] += margin.behind
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.firsts: list[float] = []
        at = 0.0
        for number, layer in enumerate(strip.layers):
            self.starts.append(at)
            at += max((strip.cells[cell].along for cell in layer), default=0.0)
            self.ends.append(at)
            at += behind[number]
            self.firsts.append(at + _LEAVE)
            if number < len(strip.segments):
                count = max(max(self._tracks(number, across).values(), default=-1) for across in placed) + 1
                at += self._room(number) + (_LEAVE + TRACK * (count - 1) if count else 0.0) + before[number + 1]

    def _tracks(self, gap: int, across: Sequence[float]) -> dict[tuple[int, int], int]:
        """The tracks of the segments between a layer and the next; none of straight ones."""
        cells, segments = self.strip.cells, self.strip.segments[gap]
        lines, nets = [], []
        for each in segments.values():
            first, then = cells[each.first], cells[each.then]
            lines.append((across[each.first] + each.leaves, across[each.then] + each.enters))
            starts = (each.first, each.leaves) if first.item >= 0 or first.bus else None
            ends = (each.then, each.enters) if then.item >= 0 or then.bus else None
            nets.append((starts, ends))
        found, _ = assign_tracks(lines, nets)
        return {key: track for key, track in zip(segments, found, strict=True) if track >= 0}

    def _room(self, gap: int) -> float:
        """The room along that a layer needs before it, tracks left out."""
        cells = self.strip.cells
        if any(cells[key[1]].item >= 0 and cells[key[1]].along for key in self.strip.segments[gap]):
            return _TIP
        return _LABEL if any(cells[cell].along for cell in self.strip.layers[gap + 1]) else _STRAIGHT

    def placement(self, links: Sequence[Link], turned: Sequence[bool], across: Sequence[float]) -> Placement:
        """Everything in its place, cells across as given."""
        cells = self.strip.cells
        tracks = {
            key: self.firsts[gap] + TRACK * track
            for gap in range(len(self.strip.segments))
            for key, track in self._tracks(gap, across).items()
        }
        middle = [(start + end) / 2 for start, end in zip(self.starts, self.ends, strict=True)]
        anchors = [(across[number], middle[cells[number].layer]) for number in range(len(self.items))]
        ways, labels = [], {}
        for number, (link, chain) in enumerate(zip(links, self.strip.chains, strict=True)):
            points: list[tuple[float, float]] = []
            for key in pairwise(chain):
                segment = self.strip.segments[cells[key[0]].layer][key]
                start, end = across[key[0]] + segment.leaves, across[key[1]] + segment.enters
                if key[0] == link.source:
                    source = self.items[link.source]
                    points.append((start, _depth(anchors[link.source][1], source, segment.leaves, out=True)))
                if key in tracks:
                    points += [(start, tracks[key]), (end, tracks[key])]
                if key[1] == link.target:
                    target = self.items[link.target]
                    points.append((end, _depth(anchors[link.target][1], target, segment.enters, out=False)))
            ways.append(tuple(_plain(points)[::-1] if turned[number] else _plain(points)))
            for cell in chain[1:-1]:
                if cells[cell].along:
                    labels[number] = (across[cell], middle[cells[cell].layer])
        sides = [(across[first], across[then]) for first, then, _ in self.strip.sides]
        return Placement(anchors, ways, labels, sides)


def _depth(middle: float, item: Item, across: float, *, out: bool) -> float:
    """How far along a link starts or ends at an item, whose cell's middle is given."""
    pins = item.outs if out else item.ins
    depth = next((pin.depth for pin in pins if abs(pin.across - across) < 0.01), 0.0)
    return middle + item.along / 2 - depth if out else middle - item.along / 2 + depth


def _plain(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a way, without those that lie on a straight piece of it."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if kept and abs(kept[-1][0] - point[0]) < 0.5 and abs(kept[-1][1] - point[1]) < 0.5:
            continue
        if len(kept) > 1 and _in_line(kept[-2], kept[-1], point):
            kept[-1] = point
            continue
        kept.append(point)
    return kept


def _in_line(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return any(abs(a[i] - b[i]) < 0.5 and abs(b[i] - c[i]) < 0.5 for i in (0, 1))
