"""How lines cross from one layer to the next: in tracks across, between the layers, where there is nothing but lines.

Lines that start at one pin, or end at one, share a track, as the branches of a fork do and what a bus gathers. Tracks
are ordered so that lines cross as seldom as they can and never lie on each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Between two tracks, and from where lines are told to start and end until they count as straight.
TRACK = 9.0
_STRAIGHT = 0.5


@dataclass
class Net:
    """Lines that share a track: where they come from above, and where they go to below."""

    tops: set[float] = field(default_factory=set)
    bottoms: set[float] = field(default_factory=set)
    members: list[int] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Where its track begins."""
        return min(self.tops | self.bottoms)

    @property
    def last(self) -> float:
        """Where its track ends."""
        return max(self.tops | self.bottoms)


def assign_tracks(lines: Sequence[tuple[float, float]], nets: Sequence[tuple[object, object]]) -> tuple[list[int], int]:
    """Per line, (from, to) across, its track, counted along, −1 if it is straight; and how many tracks there are.

    `nets` are per line what it shares its start with, and its end; None if nothing.
    """
    groups = _grouped(lines, nets)
    ordered = _ordered(groups)
    levels: list[int] = []
    for place, net in enumerate(ordered):
        over = [
            levels[i] for i, other in enumerate(ordered[:place])
            if other.first < net.last + TRACK and net.first < other.last + TRACK
        ]  # fmt: skip
        levels.append(max(over, default=-1) + 1)
    track = [-1] * len(lines)
    for net, level in zip(ordered, levels, strict=True):
        for line in net.members:
            if abs(lines[line][0] - lines[line][1]) > _STRAIGHT:
                track[line] = level
    return track, max(levels, default=-1) + 1


def _grouped(lines: Sequence[tuple[float, float]], nets: Sequence[tuple[object, object]]) -> list[Net]:
    """Lines with a start or an end in common, as one net; straight lines that share nothing need no track."""
    leader: dict[object, int] = {}
    group = list(range(len(lines)))

    def root(line: int) -> int:
        while group[line] != line:
            line = group[line]
        return line

    for line, ends in enumerate(nets):
        for which, end in enumerate(ends):
            if end is not None:
                known = leader.setdefault((which, end), line)
                group[root(line)] = root(known)
    found: defaultdict[int, Net] = defaultdict(Net)
    for line, (start, end) in enumerate(lines):
        net = found[root(line)]
        net.tops.add(start)
        net.bottoms.add(end)
        net.members.append(line)
    return [net for net in found.values() if net.last - net.first > _STRAIGHT]


def _ordered(nets: list[Net]) -> list[Net]:
    """The nets from the first track to the last: neighbours change places while that saves crossings."""
    ordered = sorted(nets, key=lambda net: (net.first + net.last) / 2)
    cost: dict[tuple[int, int], int] = {
        (id(a), id(b)): _cost(a, b)
        for a in nets
        for b in nets
        if a is not b and a.first <= b.last and b.first <= a.last
    }
    for _ in range(len(ordered)):
        better = False
        for place in range(len(ordered)):
            for other in range(place + 1, len(ordered)):
                # Moving one before another passes all that lie between.
                span = ordered[place : other + 1]
                moved = [span[-1], *span[:-1]]
                gain = sum(
                    cost.get((id(each), id(span[-1])), 0) - cost.get((id(span[-1]), id(each)), 0) for each in span[:-1]
                )
                if gain > 0:
                    ordered[place : other + 1] = moved
                    better = True
        if not better:
            break
    return ordered


def _cost(upper: Net, lower: Net) -> int:
    """Crossings of two nets if the first lies in the track before; lines that would lie on each other cost most."""
    crossed = sum(lower.first < x < lower.last for x in upper.bottoms) + sum(
        upper.first < x < upper.last for x in lower.tops
    )
    return crossed + 100 * sum(abs(x - y) < 4 for x in upper.bottoms for y in lower.tops)
