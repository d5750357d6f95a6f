"""Sums over tiles: the first tile makes its term where the sum lies, others add theirs; at the end threads do so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.firsts import Firsts
from graphir.backends.compiled.locations import Locations
from graphir.backends.compiled.recorder import Recorder
from graphir.backends.compiled.task import Task, Tile
from graphir.ir.value import Value


@dataclass(frozen=True)
class Target:
    """Where a result goes: `array`; of a sum that has terms already, a term of it, to be added to `total`."""

    value: Value
    array: Array
    total: Array | None = None
    #: Of a sum, what this is the first term of, if that is more than the tile.
    rest: Array | None = None


class Sums:
    """Writes what one thread does for the sums of a task, beside computing their terms."""

    def __init__(self, task: Task, engine: Engine, located: Locations, recorder: Recorder, firsts: Firsts) -> None:
        self._task, self._engine, self._located, self._recorder = task, engine, located, recorder
        self._firsts = firsts

    def has_begun(self, value: Value, tile: Tile) -> bool:
        """Whether the part of a sum to which a tile adds has a term already."""
        return self._firsts.is_done(self._part(value, tile))

    def beyond(self, value: Value, tile: Tile) -> Array | None:
        """Of a sum to which a tile adds without the causal rest, all of it: there it starts at 0."""
        task = self._task
        if task.causal is None:
            return None
        k = task.causal.k
        if tile[k] == (0, task.sizes[k]) or (k,) not in task.space.dims[value]:
            return None
        whole = self._located.part(value, {**tile, k: (0, task.sizes[k])})
        self._located.written(value, whole)
        return whole

    def clear(self, targets: Iterable[Target]) -> None:
        """What is to be done before results are made: a sum that a tile begins with less than all of it begins at 0."""
        for target in targets:
            if target.rest is not None:
                start = self._recorder.now
                self._recorder(self._engine.copy, (target.rest, target.rest.dtype.type(0)))
                self._recorder.cleared(start, target.value, target.rest)

    def settle(self, targets: Iterable[Target], tile: Tile) -> None:
        """What is to be done with results that have been made: terms are added to their sums."""
        for target in targets:
            if target.total is not None:
                self._combine(target.value, target.total, target.array, target.total)
            elif target.value in self._task.space.summed:
                self._firsts.do(self._part(target.value, tile))

    def add_up(self, value: Value, active: Sequence[int]) -> None:
        """The sum of the terms of the threads `active`."""
        total = self._located.total(value)
        self._located.written(value, total, whole=True)
        first, second, *others = [self._located.terms(value, thread) for thread in active]
        self._combine(value, first, second, total)
        for term in others:
            self._combine(value, total, term, total)

    def _part(self, value: Value, tile: Tile) -> tuple[Any, ...]:
        mine = {factor for axis in self._task.space.dims[value] for factor in axis}
        return value, *(tile[loop] for loop in self._task.space.loops if loop in mine)

    def _combine(self, value: Value, one: Array, other: Array, total: Array) -> None:
        start, reduction = self._recorder.now, self._task.producers[value].operator.reduction
        self._recorder(self._engine.maximum if reduction == "max" else self._engine.add, (one, other, total))
        self._recorder.added(start, value, (one, other), total, reduction)
