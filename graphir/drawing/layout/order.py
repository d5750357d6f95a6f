"""The order across of what lies in a layer: as few crossings as sweeps over the layers find (Sugiyama et al., 1981).

Lanes come one after the other, whatever that costs; within a lane cells change places.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence

from graphir.drawing.layout.strip import Item, Segment, Strip

_SWEEPS = 12


def order_cells(strip: Strip, items: Sequence[Item]) -> None:
    """Puts each layer's cells into an order with few crossings; a bus goes to the far edge.

    Sweeps begin from two orders, found from the first layers on and from the last ones back; where both end with as
    many crossings, the former stands.
    """
    best = _Best()
    for back in (False, True):
        _first_order(strip, items, back=back)
        best.sweep(strip)
        if not best.crossings:
            break
    best.restore(strip)


def order_lanes(strip: Strip) -> None:
    """Puts each layer's cells, which are in an order, into one that keeps to their lanes."""
    _by_lanes(strip)
    best = _Best()
    best.sweep(strip)
    best.restore(strip)


class _Best:
    """The best order of all that sweeps come to."""

    def __init__(self) -> None:
        self.layers: list[list[int]] = []
        self.crossings = -1

    def sweep(self, strip: Strip) -> None:
        """Sweeps over the layers, down and up, from the order that the strip is in."""
        for sweep in range(_SWEEPS + 1):
            if sweep:
                _sweep(strip, down=sweep % 2 == 1)
                _swap(strip)
            found = crossings(strip)
            if self.crossings < 0 or found < self.crossings:
                self.layers, self.crossings = [list(layer) for layer in strip.layers], found
            if not found:
                break

    def restore(self, strip: Strip) -> None:
        """Gives the strip that order."""
        strip.layers = self.layers
        _number(strip)


def crossings(strip: Strip) -> int:
    """How often segments cross between the layers, all layers together."""
    return sum(_crossings(strip, segments.values()) for segments in strip.segments)


def _crossings(strip: Strip, segments: Iterable[Segment]) -> int:
    cells, count = strip.cells, 0
    seen: list[int] = []
    ends = sorted((cells[each.first].place, cells[each.then].place) for each in segments)
    for _, place in ends:
        count += len(seen) - bisect_right(seen, place)
        insort(seen, place)
    return count


def _number(strip: Strip) -> None:
    for layer in strip.layers:
        for place, cell in enumerate(layer):
            strip.cells[cell].place = place


def _first_order(strip: Strip, items: Sequence[Item], *, back: bool) -> None:
    """Each cell beside those that were met before it, on a way that goes on (or `back`) as long as it can."""
    after: list[list[int]] = [[] for _ in strip.cells]
    entered = [False] * len(strip.cells)
    for segments in strip.segments:
        for each in segments.values():
            here, there = (each.then, each.first) if back else (each.first, each.then)
            after[here].append(there)
            entered[there] = True
    length = {chain[1]: len(chain) for chain in strip.chains}
    for number, item in enumerate(items):
        if item.passing and not back:
            after[number].sort(key=lambda cell: item.passing * length[cell])
    seen = [False] * len(strip.cells)
    layers: list[list[int]] = [[] for _ in strip.layers]
    for start in range(len(strip.cells)):
        if entered[start] or seen[start]:
            continue
        stack = [start]
        while stack:
            at = stack.pop()
            if seen[at]:
                continue
            seen[at] = True
            layers[strip.cells[at].layer].append(at)
            stack += reversed(after[at])
    strip.layers = layers
    _by_lanes(strip)


def _by_lanes(strip: Strip) -> None:
    for layer in strip.layers:
        layer.sort(key=lambda cell: strip.cells[cell].lane)
    _number(strip)


def _sweep(strip: Strip, *, down: bool) -> None:
    """Each layer ordered by where its neighbours in the layer before (or after) lie on average."""
    cells = strip.cells
    gaps = range(len(strip.segments)) if down else reversed(range(len(strip.segments)))
    for gap in gaps:
        places: dict[int, list[int]] = {}
        for each in strip.segments[gap].values():
            here, there = (each.then, each.first) if down else (each.first, each.then)
            places.setdefault(here, []).append(cells[there].place)
        layer = strip.layers[gap + 1 if down else gap]
        means = {cell: sum(found) / len(found) for cell, found in places.items()}
        last = 0.0
        keys: dict[int, tuple[int, float, int]] = {}
        for cell in layer:
            last = means.get(cell, last)
            keys[cell] = (cells[cell].lane, last, cells[cell].place)
        layer.sort(key=keys.__getitem__)
        for place, cell in enumerate(layer):
            cells[cell].place = place


def _swap(strip: Strip) -> None:
    """Neighbours in a layer change places where that saves crossings."""
    cells = strip.cells
    into: list[list[int]] = [[] for _ in cells]
    from_: list[list[int]] = [[] for _ in cells]
    for segments in strip.segments:
        for each in segments.values():
            into[each.then].append(each.first)
            from_[each.first].append(each.then)
    for layer in strip.layers:
        better = True
        while better:
            better = False
            for place in range(len(layer) - 1):
                a, b = layer[place], layer[place + 1]
                if cells[a].lane != cells[b].lane:
                    continue
                gain = 0
                for near in (into, from_):
                    for x in near[a]:
                        for y in near[b]:
                            gain += (cells[x].place > cells[y].place) - (cells[x].place < cells[y].place)
                if gain > 0:
                    layer[place], layer[place + 1] = b, a
                    cells[a].place, cells[b].place = place + 1, place
                    better = True
