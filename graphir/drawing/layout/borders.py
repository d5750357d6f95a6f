"""Frames around items: each layer that a frame reaches over has a cell of its left side and one of its right side.

What the frame holds stands between the two, all else before or behind them, and each side is one straight column. So
two frames never overlap, and none has in it what is not its own, in whatever order the items follow each other: blocks
that are interleaved stand side by side. On which side a line passes a frame is read off the order without frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from graphir.drawing.layout.order import order_lanes
from graphir.drawing.layout.strip import LAST_LANE, Cell, Frame, Segment, Strip

#: Sides are straight before all else.
_STRAIGHT = 1e6


def set_apart(strip: Strip, frames: Sequence[Frame]) -> None:
    """Gives each frame its sides, and all cells an order that respects them; cells must be in one without frames."""
    if frames:
        reaches = [_Reach(strip, frame) for frame in frames]
        _Lanes(strip, reaches).assign()
        for reach in reaches:
            reach.add_sides(strip)
        order_lanes(strip)


class _Reach:
    """A frame, from which layer to which it reaches, and which place it has among all frames across."""

    def __init__(self, strip: Strip, frame: Frame) -> None:
        layers = [strip.cells[item].layer for item in frame.items]
        self.frame = frame
        self.layers = range(min(layers), max(layers) + 1)
        self.items = {*frame.items, *(guest for guest in frame.guests if strip.cells[guest].layer in self.layers)}
        self.place = 0

    @property
    def before(self) -> int:
        """The lane before its left side; then come its left side, its own cells, its right side, what is behind it."""
        return 4 * self.place

    def add_sides(self, strip: Strip) -> None:
        """Adds the cells of its sides to the strip."""
        left, right = self._side(strip, self.before + 1), self._side(strip, self.before + 3)
        for cell in left:
            strip.cells[cell].after = self.frame.head
        strip.cells[right[0]].before = self.frame.tail
        strip.sides.append((left[0], right[0], self.frame.wide))

    def _side(self, strip: Strip, lane: int) -> range:
        cells = range(len(strip.cells), len(strip.cells) + len(self.layers))
        for cell, layer in zip(cells, self.layers, strict=True):
            strip.layers[layer].append(cell)
            strip.cells.append(Cell(layer, lane=lane))
        for cell, next_ in pairwise(cells):
            strip.segments[strip.cells[cell].layer][cell, next_] = Segment(cell, next_, _STRAIGHT)
        return cells


class _Lanes:
    """Which lane each cell belongs to: inside of its own frame, or on one side of each frame that it comes by."""

    def __init__(self, strip: Strip, reaches: Sequence[_Reach]) -> None:
        self.strip, self.reaches = strip, reaches
        self.owner = {item: reach for reach in reaches for item in reach.items}
        for chain in strip.chains:
            own = self.owner.get(chain[0])
            if own is not None and own is self.owner.get(chain[-1]):
                self.owner.update(dict.fromkeys(chain, own))

    def assign(self) -> None:
        """Sets the lanes of all cells."""
        middle = self._middles()
        mean = {reach: sum(middle[reach].values()) / len(middle[reach]) for reach in self.reaches}
        for place, reach in enumerate(sorted(self.reaches, key=mean.__getitem__)):
            reach.place = place
        aside = {cell: number for number, chain in enumerate(self.strip.chains) for cell in chain[1:-1]}
        #: By who comes by, a line or an item by itself, its cells and the frames there, from the first across on.
        passing: defaultdict[int, list[tuple[Cell, list[_Reach]]]] = defaultdict(list)
        ordered = sorted(self.reaches, key=lambda reach: reach.place)
        for number, cell in enumerate(self.strip.cells):
            if number in self.owner:
                cell.lane = self.owner[number].before + 2
            elif cell.lane != LAST_LANE:
                near = [reach for reach in ordered if cell.layer in reach.layers]
                passing[aside.get(number, -1 - number)].append((cell, near))
        for cells in passing.values():
            behind = self._behind(cells, middle, mean)
            for cell, near in cells:
                cell.lane = max((reach.before + 4 for reach in near if reach in behind), default=0)

    def _behind(
        self,
        cells: Sequence[tuple[Cell, Sequence[_Reach]]],
        middle: Mapping[_Reach, Mapping[int, float]],
        mean: Mapping[_Reach, float],
    ) -> set[_Reach]:
        """The frames that these cells of one line lie behind, all the way: it passes none on both sides."""
        by: defaultdict[_Reach, float] = defaultdict(float)
        for cell, near in cells:
            for reach in near:
                by[reach] += self._share(cell) - middle[reach].get(cell.layer, mean[reach])
        found: set[_Reach] = set()
        for reach in sorted(by, key=lambda each: each.place, reverse=True):
            if by[reach] > 0 or reach in found:
                # What lies behind one frame lies behind those before it, too, wherever they are side by side.
                found.update(each for _, near in cells if reach in near for each in near if each.place <= reach.place)
        return found

    def _middles(self) -> Mapping[_Reach, Mapping[int, float]]:
        """By frame and layer the middle of what the frame holds there."""
        found: defaultdict[_Reach, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for number, reach in self.owner.items():
            cell = self.strip.cells[number]
            found[reach][cell.layer].append(self._share(cell))
        return {
            reach: {layer: sum(shares) / len(shares) for layer, shares in layers.items()}
            for reach, layers in found.items()
        }

    def _share(self, cell: Cell) -> float:
        """Where in its layer a cell stands, from 0 to 1."""
        return (cell.place + 0.5) / len(self.strip.layers[cell.layer])
