"""Frames and their titles: a line around what a frame holds, its title in the upper corner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from graphir.drawing import style
from graphir.drawing.layout.geometry import Box, Drawing, PlacedFrame, Text, around
from graphir.drawing.layout.strip import Frame
from graphir.drawing.layout.text import label_width
from graphir.drawing.picture import Cluster

#: Around what a frame holds, and the height of its title.
_AROUND, _TITLE = 9.0, 17.0
#: How far from a frame's sides its title stays, and from what is in its way.
_ASIDE, _AWAY = 8.0, 4.0


@dataclass(frozen=True)
class Framed:
    """A cluster's frame: what the layout is told of it, and the room along before and behind all that it holds."""

    cluster: Cluster
    inside: Frame
    down: bool
    before: float
    behind: float

    @property
    def _wide(self) -> float:
        return label_width(self.cluster.label, style.LEGEND) + 2 * _ASIDE if self.cluster.label else 0.0

    def roomier(self) -> Framed:
        """The frame with so much more room that its title finds some behind all that comes into it."""
        room = self._wide + 2 * _ASIDE
        if self.down:
            return replace(self, inside=replace(self.inside, tail=room))
        return replace(self, behind=self.behind + room)

    def around(self, held: Box, sides: tuple[float, float], drawing: Drawing) -> tuple[PlacedFrame, bool]:
        """The frame around a box, between `sides`, and whether its title has room in it."""
        box = held.grown(_AROUND)
        if not self.cluster.label:
            return PlacedFrame(self.cluster.kind, box), True
        box = box._replace(top=box.top - _TITLE)
        limit = sides[1] if self.down else held.right + self.behind
        if self.down:
            # A title wider than what the frame holds is given room between its sides.
            box = box._replace(left=max(sides[0], min(box.left, limit - self._wide)))
        title = self._title(box, drawing)
        end = title.box.right + _ASIDE
        return PlacedFrame(self.cluster.kind, box._replace(right=max(box.right, end)), (title,)), end <= limit + 0.01

    def _title(self, box: Box, drawing: Drawing) -> Text:
        """The title in the frame's upper corner: at the left, or behind what is in its way there."""
        label = self.cluster.label
        strip = Box(box.left, box.top, box.right, box.top + _TITLE)
        across = [each for each in _taken(drawing) if each.top < strip.bottom and each.bottom > strip.top]
        width, left = label_width(label, style.LEGEND), box.left + _ASIDE
        while blocking := [each.right for each in across if each.left < left + width + 2 and each.right > left - 2]:
            left = max(blocking) + _AWAY
        return Text(label, left, box.top + 13, style.LEGEND, "start", style.QUIET)


def framed(cluster: Cluster, items: Sequence[int], guests: Sequence[int], *, down: bool) -> Framed:
    """The frame of a cluster that holds `items`, and `guests` where they stand in it; the title is always on top."""
    title = _TITLE if cluster.label else 0.0
    if not down:
        return Framed(cluster, Frame(items, guests, head=title), down, _AROUND, _AROUND)
    found = Framed(cluster, Frame(items, guests), down, _AROUND + title, _AROUND)
    return replace(found, inside=replace(found.inside, wide=found._wide))


def _taken(drawing: Drawing) -> Iterator[Box]:
    """The room of all that a title must not lie on."""
    for node in drawing.nodes.values():
        yield from node.boxes
        yield from (text.box for text in node.texts)
    for edge in drawing.edges.values():
        yield from (text.box for text in edge.texts)
        yield from (around((Box(*a, *a), Box(*b, *b))).grown(3) for a, b in pairwise(edge.points))
