"""Programs for what the queries of a run see: which there are, and which a run takes.

A program is written for what is seen, and kept. A run may take one that was written for more; another is written where
that would compute much more, up to a number of programs, of which the first leaves out nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphir.backends.compiled.program import Program
from graphir.backends.compiled.sights import Range, Sight, Views
from graphir.backends.trace import Seen
from graphir.ir.value import Value

#: By how much more a program may compute than one that was written for a run.
_MORE = 1.25
#: How many programs a rank may have beside the first.
_MOST = 16


class Following:
    """Has each rank's program leave out what the queries of a run do not see, `told` for so many queries and keys."""

    def __init__(self, sights: Sequence[Sight], told: tuple[int, int]) -> None:
        self.sights, self._told = sights, told
        self._choices: dict[int, _Choice] = {}

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
            choice = self._choices.setdefault(rank, _Choice(self.sights))
            seen = choice.find({value: mine[rank] for value, mine in blocks.items()}, *self._told)
            if not program.follows(seen):
                assert seen is not None
                program.adopt(seen, write(rank, dict(zip(self.sights, seen, strict=True))))
                program.follows(seen)


class _Choice:
    """Of a rank, for what programs have been written, beside the one that leaves out nothing."""

    def __init__(self, sights: Sequence[Sight]) -> None:
        self._sights = sights
        self._known: list[tuple[Seen, ...]] = []
        self._last: tuple[list[Any], tuple[Seen, ...] | None] = [], None

    def find(self, arrays: Mapping[Value, Any], queries: int, keys: int) -> tuple[Seen, ...] | None:
        """What a program has to see for a run on these arrays; None: everything."""
        mine = [np.asarray(arrays[value]) for sight in self._sights for _, _, value in sight.operands]
        before, chosen = self._last
        if len(before) != len(mine) or not all(map(np.array_equal, before, mine)):
            wanted = [sight.look(arrays, queries, keys) for sight in self._sights]
            chosen = None if None in wanted else self._fitting(tuple(filter(None, wanted)))
            self._last = [array.copy() for array in mine], chosen
        return chosen

    def _fitting(self, wanted: tuple[Seen, ...]) -> tuple[Seen, ...] | None:
        """The least that has been written and covers it; itself, if that is much less."""
        everything = tuple(_everything(each) for each in wanted)
        fitting = [each for each in self._known if all(map(_covers, each, wanted))]
        least = min([*fitting, everything], key=_cost)
        if _cost(least) > _MORE * _cost(wanted) and len(self._known) < _MOST:
            self._known.append(wanted)
            return wanted
        return None if least == everything else least


def _everything(seen: Seen) -> Seen:
    rows = [[0] * len(each) for each in seen.lows]
    highs = tuple(tuple(seen.keys for _ in each) for each in rows)
    return Seen(seen.queries, seen.keys, tuple(map(tuple, rows)), highs)


def _covers(one: Seen, other: Seen) -> bool:
    pairs = zip(_ranges(one), _ranges(other), strict=True)
    return all(low <= first and last <= high for (low, high), (first, last) in pairs)


def _cost(seen: Sequence[Seen]) -> int:
    return sum(high - low for each in seen for low, high in _ranges(each))


def _ranges(seen: Seen) -> Iterator[Range]:
    for lows, highs in zip(seen.lows, seen.highs, strict=True):
        yield from zip(lows, highs, strict=True)
