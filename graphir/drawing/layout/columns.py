"""Where cells lie across: in columns that are straight from layer to layer, near each other, nothing on top of another.

Cells that follow each other are first joined into columns, the heaviest links first, wherever no column is crossed by
another (Brandes and Köpf, 2001, align cells so). Columns, which are rigid, are packed from one side; then each moves,
with those that it pushes, as long as that shortens the links: the sum of |distance across| · weight falls with every
step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from itertools import pairwise

from graphir.drawing.layout.strip import Strip

#: Room between two cells: between lines, between a line and anything else, between other things.
_LINES, _BESIDE, _APART = 10.0, 12.0, 18.0
_ROUNDS = 60
_TINY = 1e-6


def place_across(strip: Strip) -> None:
    """Sets every cell's `across`."""
    columns = _Columns(strip)
    columns.pack()
    columns.shorten()
    for cell, column in enumerate(columns.of):
        strip.cells[cell].across = columns.at[column] + columns.offset[cell]


class _Columns:
    def __init__(self, strip: Strip) -> None:
        self.strip = strip
        count = len(strip.cells)
        #: Per cell its column and where in it the cell lies.
        self.of, self.offset = list(range(count)), [0.0] * count
        self._join()
        self.numbers = sorted(set(self.of))
        self.at = [0.0] * count
        #: By column: (the other, the distance that it keeps at least), to the right and to the left.
        self.right: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self.left: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self._keep_apart()
        #: By column: (the other, by how much the two differ if the link is straight, weight).
        self.links: defaultdict[int, list[tuple[int, float, float]]] = defaultdict(list)
        self._link()

    def _join(self) -> None:
        cells = self.strip.cells
        up, down = [False] * len(cells), [False] * len(cells)
        after: dict[int, tuple[int, float]] = {}
        middle = self._distance_from_middle()
        entries = [
            (-each.weight, middle[key], gap, key)
            for gap, segments in enumerate(self.strip.segments)
            for key, each in segments.items()
        ]
        accepted: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for _, _, gap, key in sorted(entries):
            each = self.strip.segments[gap][key]
            if down[each.first] or up[each.then]:
                continue
            pair = (cells[each.first].place, cells[each.then].place)
            known = accepted[gap]
            at = bisect_left(known, pair)
            if (at and known[at - 1][1] > pair[1]) or (at < len(known) and known[at][1] < pair[1]):
                continue
            insort(known, pair)
            down[each.first] = up[each.then] = True
            after[each.first] = (each.then, each.leaves - each.enters)
        for start in range(len(cells)):
            if up[start]:
                continue
            at, offset = start, 0.0
            while True:
                self.of[at], self.offset[at] = start, offset
                if at not in after:
                    break
                at, shift = after[at]
                offset += shift

    def _distance_from_middle(self) -> dict[tuple[int, int], float]:
        """Of links of one weight at a cell the one in the middle shall be straight."""
        cells = self.strip.cells
        found: defaultdict[tuple[int, int], float] = defaultdict(float)
        for segments in self.strip.segments:
            for near, far in ((0, 1), (1, 0)):
                groups: defaultdict[tuple[int, float], list[tuple[int, int]]] = defaultdict(list)
                for key, each in segments.items():
                    groups[key[near], each.weight].append(key)
                for members in groups.values():
                    members.sort(key=lambda key: cells[key[far]].place)
                    for position, key in enumerate(members):
                        found[key] = max(found[key], abs(position - (len(members) - 1) / 2))
        return found

    def _keep_apart(self) -> None:
        cells = self.strip.cells
        for layer in self.strip.layers:
            for a, b in pairwise(layer):
                first, then = cells[a], cells[b]
                lines = sum(each.item < 0 and not each.along for each in (first, then))
                room = first.after + then.before + (_APART, _BESIDE, _LINES)[lines]
                room += self.offset[a] - self.offset[b]
                left, right = self.of[a], self.of[b]
                self.right[left][right] = max(self.right[left].get(right, room), room)
                self.left[right][left] = self.right[left][right]
        for start, end, room in self.strip.sides:
            left, right = self.of[start], self.of[end]
            self.right[left][right] = max(self.right[left].get(right, room), room)
            self.left[right][left] = self.right[left][right]

    def _link(self) -> None:
        for segments in self.strip.segments:
            for each in segments.values():
                a, b = self.of[each.first], self.of[each.then]
                if a != b:
                    # Straight if at[b] − at[a] is this.
                    straight = self.offset[each.first] + each.leaves - self.offset[each.then] - each.enters
                    self.links[a].append((b, straight, each.weight))
                    self.links[b].append((a, -straight, each.weight))

    # -- places -----------------------------------------------------------------------------------------------

    def pack(self) -> None:
        """Every column as far to the left as it goes."""
        waiting = {each: len(self.left[each]) for each in self.numbers}
        ready = [each for each in self.numbers if not waiting[each]]
        for each in ready:
            self.at[each] = max((self.at[left] + room for left, room in self.left[each].items()), default=0.0)
            for other in self.right[each]:
                waiting[other] -= 1
                if not waiting[other]:
                    ready.append(other)

    def shorten(self) -> None:
        """Moves columns, with what they push and what they are straight with, while links become shorter."""
        for _ in range(_ROUNDS):
            moved = False
            for each in (*self.numbers, *reversed(self.numbers)):
                for way in (1, -1):
                    for together in (False, True):
                        while self._move(each, way, together=together):
                            moved = True
            if not moved:
                break

    def _move(self, start: int, way: int, *, together: bool) -> bool:
        """One step of a column to the right (way 1) or left (−1); whether there was one that shortens links."""
        at, beyond = self.at, self.right if way > 0 else self.left
        group, queue = {start}, [start]
        while queue:
            each = queue.pop()
            near = [o for o, room in beyond[each].items() if way * (at[o] - at[each]) - room < _TINY]
            if together:
                near += [o for o, straight, _ in self.links[each] if abs(at[o] - at[each] - straight) < _TINY]
            for other in near:
                if other not in group:
                    group.add(other)
                    queue.append(other)
        pull, step = 0.0, float("inf")
        for each in group:
            for other, straight, weight in self.links[each]:
                if other in group:
                    continue
                wanted = way * (at[other] - straight - at[each])
                pull += weight if wanted > _TINY else -weight
                if wanted > _TINY:
                    step = min(step, wanted)
            for other, room in beyond[each].items():
                if other not in group:
                    step = min(step, way * (at[other] - at[each]) - room)
        if pull <= _TINY or step == float("inf") or step < _TINY:
            return False
        for each in group:
            at[each] += way * step
        return True
