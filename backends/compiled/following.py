"""What the queries of a run see, looked at before each: of what they do not see the run's tiles leave out the keys.

It follows from the run's arguments alone, never from runs before it, so that the same arguments give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphir.backends.compiled.sights import Sight, Views
from graphir.backends.trace import Seen
from graphir.ir.value import Value

#: In so many steps, or fewer, the keys of a block are told: of each a tile has calls of its own.
_STEPS = 16
#: What is left out when that was broken off: equal to nothing.
_UNKNOWN: Any = object()


class Following:
    """Looks at what the queries of each rank's runs see.

    sights   by which arguments say what is seen, with the products of numbers that tasks by that sight add up in all
    grain    for how many queries, and keys, at a time it is looked at
    worth    how many such products nobody has to look at for it to be worth other calls
    """

    def __init__(self, sights: Mapping[Sight, int], grain: int, worth: int) -> None:
        self.sights, self._grain, self._worth = sights, grain, worth
        self._last: dict[int, tuple[list[Any], Views]] = {}
        self._followed: dict[int, Views] = {}

    @property
    def looked(self) -> frozenset[Value]:
        """The arguments that say what is seen."""
        return frozenset(value for sight in self.sights for _, _, value in sight.operands)

    def follow(self, rank: int, arrays: Mapping[Value, Any], leave_out: Callable[[Views], None]) -> None:
        """Before a run of a rank on these arrays, has what is not seen left out, unless it is."""
        views = self._find(rank, arrays)
        if self._followed.get(rank, {}) != views:
            self._followed[rank] = _UNKNOWN
            leave_out(views)
            self._followed[rank] = views

    def _find(self, rank: int, arrays: Mapping[Value, Any]) -> Views:
        """What is to be computed for a run on these arrays; everything by sights that are not named."""
        mine = [np.asarray(arrays[value]) for sight in self.sights for _, _, value in sight.operands]
        before, found = self._last.get(rank, ([], {}))
        if len(before) != len(mine) or not all(map(np.array_equal, before, mine)):
            found = self._look(arrays)
            self._last[rank] = [array.copy() for array in mine], found
        return found

    def _look(self, arrays: Mapping[Value, Any]) -> Views:
        found, spared = {}, 0.0
        for sight, products in self.sights.items():
            seen = sight.look(arrays, self._grain, self._step(sight, arrays))
            if seen is not None:
                found[sight] = seen
                spared += products * (1 - share_of(seen))
        return found if spared >= max(self._worth, 1) else {}

    def _step(self, sight: Sight, arrays: Mapping[Value, Any]) -> int:
        """How many keys are a step: a multiple of the grain."""
        keys: int = max(arrays[value].shape[dims.index("k")] for _, dims, value in sight.operands if "k" in dims)
        return self._grain * max(1, -(-keys // (self._grain * _STEPS)))


def share_of(seen: Seen) -> float:
    """Which part of all keys, over all blocks of queries, is seen."""
    lows, highs = np.array(seen.lows), np.array(seen.highs)
    return float(np.maximum(highs - lows, 0).sum()) / (seen.keys * lows.size)
