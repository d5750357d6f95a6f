"""Programs for what the queries of a run see: a run takes one whose tiles have no other keys.

Which one follows from the run's arguments alone, never from runs before it, so that the same arguments give the same
bits. Of what is seen a *band* is kept that has all of it: keys from so many before a block of queries to so many behind
it, in steps, the same for all blocks and sequences. In order that is the causal half; with a window its width; of a
cache, or of documents that are packed, what reaches that far. What is mixed up has a band that leaves out nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphir.backends.compiled.program import Program
from graphir.backends.compiled.sights import Range, Sight, Views
from graphir.backends.trace import Seen
from graphir.ir.value import Value

#: In so many steps of keys a band is told, and in so many one of few queries, which reaches further with each token.
_STEPS, _FEW = 16, 4
#: How many programs a rank has beside the first; of more the oldest is written anew when it is asked for.
_MOST = 16


class Following:
    """Has each rank's program leave out what the queries of a run do not see.

    sights   by which arguments say what is seen, with the products of numbers that tasks by that sight add up in all
    grain    for how many queries, and keys, at a time it is looked at
    worth    of how many such products it is worth a program to leave them out
    """

    def __init__(self, sights: Mapping[Sight, int], grain: int, worth: int) -> None:
        self.sights, self._grain, self._worth = sights, grain, worth
        self._last: dict[int, tuple[list[Any], tuple[Seen, ...] | None]] = {}

    @property
    def looked(self) -> frozenset[Value]:
        """The arguments that say what is seen."""
        return frozenset(value for sight in self.sights for _, _, value in sight.operands)

    def follow(
        self,
        programs: Sequence[Program],
        blocks: Mapping[Value, Sequence[Any]],
        write: Callable[[int, Views], Program],
    ) -> None:
        """Before a run on these blocks, a rank's one after the other; `write` makes a further program of a rank."""
        for rank, program in enumerate(programs):
            seen = self._find(rank, {value: mine[rank] for value, mine in blocks.items()})
            if not program.follows(seen):
                assert seen is not None
                program.adopt(seen, write(rank, dict(zip(self.sights, seen, strict=True))), _MOST)
                program.follows(seen)

    def _find(self, rank: int, arrays: Mapping[Value, Any]) -> tuple[Seen, ...] | None:
        """What a program has to see for a run on these arrays; None: everything."""
        mine = [np.asarray(arrays[value]) for sight in self.sights for _, _, value in sight.operands]
        before, found = self._last.get(rank, ([], None))
        if len(before) != len(mine) or not all(map(np.array_equal, before, mine)):
            found = self._look(arrays)
            self._last[rank] = [array.copy() for array in mine], found
        return found

    def _look(self, arrays: Mapping[Value, Any]) -> tuple[Seen, ...] | None:
        found, spared = [], 0.0
        for sight, products in self.sights.items():
            seen = sight.look(arrays, self._grain)
            if seen is None:
                return None
            found.append(band_of(seen))
            spared += products * (1 - share_of(found[-1]))
        return tuple(found) if spared >= max(self._worth, 1) else None


def band_of(seen: Seen) -> Seen:
    """The least band, in steps, that has all that is seen."""
    step = max(seen.queries, -(-seen.keys // (_STEPS if len(seen.lows[0]) > 1 else _FEW)))
    cells = [(i * seen.queries, *keys) for i, keys in _cells(seen) if keys[0] < keys[1]]
    before = min((low - at for at, low, _ in cells), default=0) // step * step
    behind = -(min((at - high for at, _, high in cells), default=0) // step) * step
    lows, highs = [], []
    for i in range(len(seen.lows[0])):
        # Of a block that sees nothing, and lies outside of the band, some keys are computed, and masked.
        lows.append(max(0, min(i * seen.queries + before, seen.keys - 1)))
        highs.append(min(seen.keys, max(i * seen.queries + behind, lows[-1] + 1)))
    count = len(seen.lows)
    return Seen(seen.queries, seen.keys, (tuple(lows),) * count, (tuple(highs),) * count)


def share_of(seen: Seen) -> float:
    """Which part of all keys, over all blocks of queries, is seen."""
    spans = [high - low for _, (low, high) in _cells(seen)]
    return sum(spans) / (seen.keys * len(spans))


def _cells(seen: Seen) -> Iterator[tuple[int, Range]]:
    """Each block of queries of each sequence: its number, and its keys."""
    for lows, highs in zip(seen.lows, seen.highs, strict=True):
        yield from enumerate(zip(lows, highs, strict=True))
