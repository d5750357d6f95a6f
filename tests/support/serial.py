"""Threads one after the other, and what is dead between two of their meetings poisoned.

    with poisoned(), serial():
        run = gi.compile(graph, sizes, threads=4)
        run(arrays)

Between two meetings each thread runs its calls to the end before the next begins, the last thread first in every other
run: whatever one needs of another shows, as what it finds is not there yet. At each meeting all scratch is poisoned,
and of the arena what holds no value that a later task still reads, as the plan has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from graphir.backends.compiled.segment import Segment
from graphir.backends.numpy.compiled import NumpyExecutable
from tests.support.poison import fill


@contextmanager
def serial(backwards: bool = False) -> Iterator[None]:
    """While it lasts, executables run so; `backwards`, the last thread first."""

    def run_segment(self: NumpyExecutable, rank: int, index: int) -> None:
        segment = self.programs[rank].current[index]
        order = range(self.threads)
        phases = [_phases(segment, thread) for thread in order]
        position = {node: i for i, task in enumerate(self.prepared.tasks) for node in task.nodes}
        done = -1
        for number in range(max(map(len, phases))):
            for thread in reversed(order) if backwards else order:
                for at in phases[thread][number] if number < len(phases[thread]) else ():
                    function, arguments = segment.calls[thread][at]
                    with np.errstate(all="ignore"):
                        function(*arguments)
                    done = max(done, position[segment.nodes[thread][at]])
            left = [
                position[segment.nodes[thread][at]]
                for thread in order
                for phase in phases[thread][number + 1 :]
                for at in phase
            ]
            if left:
                _poison_dead(self, rank, done, min(left))

    with patch.object(NumpyExecutable, "_run_segment", run_segment):
        yield


def _phases(segment: Segment, thread: int) -> list[list[int]]:
    """The calls of a thread from meeting to meeting."""
    phases: list[list[int]] = [[]]
    for at, node in enumerate(segment.nodes[thread]):
        if node is None:
            phases.append([])
        else:
            phases[-1].append(at)
    return phases


def _poison_dead(run: NumpyExecutable, rank: int, done: int, first: int) -> None:
    """Fills scratch, and the arena but for what tasks up to `done` have made and tasks from `first` on read."""
    for scratch in run._scratch:
        for chunk in scratch.chunks:
            fill(chunk)
    arena = run.programs[rank].rank.arena
    for low, high in _gaps(run.prepared.arena.blocks, done, first, arena.size):
        fill(arena[low:high])


def _gaps(blocks: Sequence[Any], done: int, first: int, size: int) -> Iterator[tuple[int, int]]:
    """The bytes in which no block is alive."""
    alive = sorted((b.offset, b.offset + b.size) for b in blocks if b.start <= done and b.end >= first)
    at = 0
    for low, high in alive:
        if low > at:
            yield at, low
        at = max(at, high)
    if at < size:
        yield at, size
