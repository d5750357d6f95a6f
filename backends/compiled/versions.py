"""Versions: a tile's calls with fewer keys than there are, written when a run first wants them, and kept.

A program is written with all keys. Where a task leaves out by sight, its calls are also known tile by tile, and those
of a tile can be replaced by a version of them, each tile's by one of its own: a version reads and writes within what
they read and write, on the thread's scratch, and begins the sums that they begin. So threads meet as they did.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from graphir.backends.compiled.segment import Segment
from graphir.backends.compiled.sights import Range, Views, blocks_of, keys_of
from graphir.backends.compiled.task import Causal, Tile
from graphir.backends.compiled.writer import Call, Writer
from graphir.backends.trace import Meeting, Seen, Step
from graphir.ir.graph import Node

#: A number for each block of queries of each sequence.
Table: TypeAlias = Sequence[Sequence[int]]
#: Of versions so many calls are kept for each of the program's, and those of a run in any case.
_MOST = 8


@dataclass(eq=False)
class Version:
    """A tile's calls with these keys, whose node each call is, and the steps that they are, counted from its first.

    `calls` are bound to a caller's arrays; `unbound` are the same, as they were written. One that is written again is
    another: it has a number of its own.
    """

    keys: Range
    calls: list[Call]
    nodes: Sequence[Node]
    steps: Sequence[Step]
    unbound: Sequence[Call]
    number: int = field(default_factory=itertools.count().__next__)


@dataclass(eq=False)
class Strand:
    """The calls of one thread for a task that leaves out keys by sight.

    segment   in which of the program's they are
    tiles     the thread's
    starts    where each tile's calls begin among the thread's, and the last one's end; `steps`: where its steps do
    """

    segment: int
    thread: int
    writer: Writer
    tiles: Sequence[Tile]
    starts: Sequence[int]
    steps: Sequence[int]
    versions: dict[tuple[int, Range], Version] = field(default_factory=dict)
    chosen: dict[int, Version] = field(default_factory=dict)

    @property
    def causal(self) -> Causal:
        """Which factors are queries and keys, and how it is said what is seen."""
        found = self.writer.task.causal
        assert found is not None
        return found

    def wanted(self, views: Views) -> dict[int, Range]:
        """The tiles that need not have all keys, with the keys that they need."""
        _, k, _, sight = self.causal
        seen = None if sight is None else views.get(sight)
        found: dict[int, Range] = {}
        for number, tile in enumerate(self.tiles if seen is not None else ()):
            assert seen is not None
            low, high = keys_of(seen, *self.causal.queries(tile))
            # Who sees nothing has masked scores still, of which softmax makes 0.
            keys = (low, high) if low < high else (0, min(seen.queries, seen.keys))
            if keys != tile[k]:
                found[number] = keys
        return found

    def keys(self, number: int) -> Range:
        """The keys that a tile has calls for."""
        version = self.chosen.get(number)
        return self.tiles[number][self.causal.k] if version is None else version.keys

    def write(self, number: int, keys: Range, traced: bool) -> Version | None:
        """A version of a tile, as it is written; None where there can be none."""
        found = self.writer.rewrite(number, {**self.tiles[number], self.causal.k: keys})
        if found is None:
            return None
        return Version(keys, found.calls, found.nodes, found.steps, list(found.calls) if traced else ())


class Sparing:
    """Which versions of which tiles a program runs.

    `unbound` are the calls of its segments as they were written, if they are kept.
    """

    def __init__(self) -> None:
        self.strands: list[Strand] = []
        self.unbound: list[list[list[Call]]] | None = None

    @property
    def has_chosen(self) -> bool:
        """Whether there are tiles that leave something out."""
        return any(strand.chosen for strand in self.strands)

    def keep(self, segments: Sequence[Segment]) -> None:
        """Keeps the calls as they are now, before they are bound to a caller's arrays."""
        self.unbound = [[list(calls) for calls in segment.calls] for segment in segments]

    def choose(
        self, views: Views, adopt: Callable[[list[Call]], None], abandon: Callable[[Sequence[list[Call]]], None]
    ) -> None:
        """Takes the versions that have what is seen, whatever was taken before; further ones are adopted."""
        for strand in self.strands:
            strand.chosen = {}
            for number, keys in strand.wanted(views).items():
                version = strand.versions.get((number, keys))
                if version is None:
                    version = strand.write(number, keys, self.unbound is not None)
                    if version is None:
                        continue
                    adopt(version.calls)
                    strand.versions[number, keys] = version
                strand.chosen[number] = version
        self._forget(abandon)

    def chosen(self) -> Hashable:
        """What is run in place of what was written first: equal where the calls are the same."""
        return tuple(version.number for strand in self.strands for version in strand.chosen.values())

    def assumed(self, views: Views) -> Views:
        """What may be seen for what has been chosen to be right: as much as all tiles have keys for, and what is seen.

        So it is the same, and proved once, of all runs for which the same is chosen.
        """
        found = {}
        for sight, seen in views.items():
            lows, highs = [[0] * len(row) for row in seen.lows], [[seen.keys] * len(row) for row in seen.highs]
            for strand in (each for each in self.strands if each.causal.sight == sight):
                for number, tile in enumerate(strand.tiles):
                    low, high = strand.keys(number)
                    for row, block in blocks_of(seen, *strand.causal.queries(tile)):
                        lows[row][block] = max(lows[row][block], low)
                        highs[row][block] = min(highs[row][block], high)
            found[sight] = Seen(seen.queries, seen.keys, _each(min, lows, seen.lows), _each(max, highs, seen.highs))
        return found

    def _forget(self, abandon: Callable[[Sequence[list[Call]]], None]) -> None:
        """Lets go of all versions that are not chosen, if there are too many."""
        if sum(len(v.calls) for s in self.strands for v in s.versions.values()) > _MOST * self._calls:
            for strand in self.strands:
                chosen = set(map(id, strand.chosen.values()))
                abandon([version.calls for version in strand.versions.values() if id(version) not in chosen])
                strand.versions = {key: each for key, each in strand.versions.items() if id(each) in chosen}

    @property
    def _calls(self) -> int:
        return sum(strand.starts[-1] - strand.starts[0] for strand in self.strands)

    def spliced(self, segments: Sequence[Segment], unbound: bool = False) -> list[Segment]:
        """The segments with the versions in place of what they stand in for; `unbound`, as they were written."""
        found = []
        for index, segment in enumerate(segments):
            mine = [strand for strand in self.strands if strand.segment == index and strand.chosen]
            if not mine and not unbound:
                found.append(segment)
                continue
            made = Segment.empty(len(segment.calls))
            for thread, nodes in enumerate(segment.nodes):
                calls = self.unbound[index][thread] if unbound and self.unbound is not None else segment.calls[thread]
                end, step = 0, 0
                line = _Line(made.calls[thread], made.nodes[thread], made.steps[thread])
                for strand in (strand for strand in mine if strand.thread == thread):
                    for number in sorted(strand.chosen):
                        version, start, first = strand.chosen[number], strand.starts[number], strand.steps[number]
                        line.add(calls[end:start], nodes[end:start], segment.steps[thread][step:first], end)
                        line.add(version.unbound if unbound else version.calls, version.nodes, version.steps, 0)
                        end, step = strand.starts[number + 1], strand.steps[number + 1]
                line.add(calls[end:], nodes[end:], segment.steps[thread][step:], end)
            found.append(made)
        return found


def _each(choose: Callable[[int, int], int], one: Table, other: Table) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(choose, *rows)) for rows in zip(one, other, strict=True))


@dataclass
class _Line:
    """A thread's part of a segment that is put together."""

    calls: list[Call]
    nodes: list[Node | None]
    steps: list[Step | Meeting]

    def add(
        self, calls: Sequence[Call], nodes: Sequence[Node | None], steps: Sequence[Step | Meeting], origin: int
    ) -> None:
        """More calls, of which the steps count from `origin` on."""
        by = len(self.calls) - origin
        self.calls += calls
        self.nodes += nodes
        self.steps += [_moved(step, by) for step in steps]


def _moved(step: Step | Meeting, by: int) -> Step | Meeting:
    if isinstance(step, Meeting):
        return Meeting(step.start + by)
    return replace(step, start=step.start + by, stop=step.stop + by)
