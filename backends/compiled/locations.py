"""Where the parts of a task's values lie, and what of which buffer a thread touches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphir.backends.compiled.assignment import Assignment, TaskBuffer
from graphir.backends.compiled.buffers import Span, addresses
from graphir.backends.compiled.causal import Half
from graphir.backends.compiled.emission import Array
from graphir.backends.compiled.engine import Engine
from graphir.backends.compiled.kernels import Kernels
from graphir.backends.compiled.replay import Recordings
from graphir.backends.compiled.task import Task, Tile
from graphir.errors import PlanError
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.value import Value


@dataclass
class Rank:
    """What a rank's tasks are written for.

    arena      the memory that most buffers lie in
    arrays     the whole buffer of each of the graph's values, and those that a task alone has; of a half the flat one
    halves     values of which only the causal half is stored, and where its parts lie
    places     where the rank's blocks lie, of each node that asks
    kernels    of what fused kernels are made for, if any are wanted
    arguments  the graph's, whose ids have been looked at before the run
    traced     whether what is written is put down step by step, for a proof
    copied     arguments that are copied into buffers of the rank's own
    recordings what formulas' rules have recorded, while the program is written
    """

    engine: Engine
    arena: Array
    arrays: dict[Value | TaskBuffer, Array]
    halves: Mapping[Value, Half]
    places: Mapping[Node, Place]
    sizes: Mapping[str, int]
    arguments: frozenset[Value] = frozenset()
    kernels: Kernels | None = None
    traced: bool = False
    constants: dict[tuple[Any, ...], Array] = field(default_factory=dict)
    copied: set[Value] = field(default_factory=set)
    recordings: Recordings = field(default_factory=Recordings)


class Locations:
    """Where a thread finds, or puts, the parts of a task's values that lie in buffers.

    given           the nodes' attributes, with dims in numbers
    reads, writes   what has been read and written of each buffer, as a range of addresses
    """

    def __init__(
        self, task: Task, assignment: Assignment, rank: Rank, thread: int, given: Mapping[Node, Mapping[str, Any]]
    ) -> None:
        self.task, self.assignment, self.rank, self.thread, self.given = task, assignment, rank, thread, given
        self.engine = rank.engine
        self.reads: dict[Value | TaskBuffer, Span] = {}
        self.writes: dict[Value | TaskBuffer, Span] = {}

    # -- parts ----------------------------------------------------------------------------------------

    def part(self, value: Value, tile: Tile) -> Array:
        """The tile's part of a value where it lies; of a sum that threads share, in the thread's own term."""
        if value in self.assignment.terms:
            return self._seen_back(value, tile, self._terms(value, self.thread))
        return self._seen_back(value, tile, None)

    def total(self, value: Value) -> Array:
        """All of a sum."""
        return self._seen_back(value, {}, None)

    def terms(self, value: Value, thread: int) -> Array:
        """All of a thread's term of a sum, to be added to the others."""
        found = self._seen_back(value, {}, self._terms(value, thread))
        self._widen(self.reads, self.assignment.terms[value], found)
        return found

    def target(self, value: Value, tile: Tile) -> Array:
        """The tile's part of the graph's value as which one of the task's leaves, to be written."""
        found = self._region(value, self.task.outer[value], tile)
        self._widen(self.writes, self.task.outer[value], found)
        return found

    def _terms(self, value: Value, thread: int) -> Array:
        array: Array = self.rank.arrays[self.assignment.terms[value]][thread, ...]
        return array

    def _seen_back(self, value: Value, tile: Tile, instead: Array | None) -> Array:
        """The tile's part of a value in its buffer, or in what stands for it, through the views that lead to it."""
        buffer, path = self.assignment.buffer(value), self.assignment.paths.get(value, ())
        if buffer is None:
            raise PlanError(f"{self.task.node.name}: {value.name} is read before it is made")
        array = self._region(path[0].outputs[0] if path else value, buffer, tile, instead)
        for node in path:
            assert node.operator.inverse is not None
            found = node.operator.inverse(array, self.task.shape(node.inputs[0], tile), self.given[node])
            if found.size and not self.engine.xp.may_share_memory(found, array):
                raise PlanError(
                    f"{self.task.node.name}: {value.name} cannot be written as {node.outputs[0].name} lies, "
                    f"{array.shape} by {array.strides}, though it was planned so"
                )
            array = found
        return array

    def _region(self, value: Value, buffer: Value | TaskBuffer, tile: Tile, instead: Array | None = None) -> Array:
        """The tile's part of a buffer that has the dims of `value`."""
        array = self.rank.arrays[buffer] if instead is None else instead
        half = self.rank.halves.get(buffer) if isinstance(buffer, Value) else None
        if half is not None:
            shape = self.task.shape(value, tile)
            start = half.start(self.task, value, tile)
            flat: Array = array[start : start + math.prod(shape)].reshape(shape)
            return flat
        # The dots keep a scalar an array.
        where: tuple[Any, ...] = (*self.task.region(value, tile), ...)
        part: Array = array[where]
        return part

    # -- what is touched ------------------------------------------------------------------------------

    def read(self, value: Value, part: Array, whole: bool = False) -> None:
        """Notes that a part of a value, of the `whole` sum, is read."""
        self._touch(self.reads, value, part, whole)

    def written(self, value: Value, part: Array, whole: bool = False) -> None:
        """Notes that a part of a value, of the `whole` sum, is written."""
        self._touch(self.writes, value, part, whole)

    def _touch(self, found: dict[Value | TaskBuffer, Span], value: Value, part: Array, whole: bool) -> None:
        buffer = self.assignment.buffer(value)
        if value in self.assignment.terms and not whole:
            buffer = self.assignment.terms[value]
        if buffer is not None:
            self._widen(found, buffer, part)

    def _widen(self, found: dict[Value | TaskBuffer, Span], buffer: Value | TaskBuffer, part: Array) -> None:
        touched, before = addresses(self.engine, part), found.get(buffer)
        if touched is not None:
            low, high = touched
            found[buffer] = touched if before is None else (min(low, before[0]), max(high, before[1]))
