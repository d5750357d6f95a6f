"""A program: a rank's calls for each thread, and how they are bound to the caller's arrays.

Calls are written once, against buffers that stand in for arguments and results; a table of relocations says which of
their operands lie in which. To run on other arrays, these operands alone are made anew.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.buffers import Scratch, Span, addresses
from graphir.backends.compiled.emission import Array, Function
from graphir.backends.compiled.locations import Rank
from graphir.backends.compiled.task import Task
from graphir.backends.compiled.writer import Call, Writer
from graphir.backends.trace import Meeting, Step
from graphir.ir.graph import Node
from graphir.ir.value import Value

#: Per thread, what has been read and written since the threads last met, as ranges of addresses.
Touched = list[list[Span]]


@dataclass
class Segment:
    """Calls between two exchanges: a list for each thread, whose node each call is, and the steps that they are."""

    calls: list[list[Call]]
    nodes: list[list[Node | None]]
    steps: list[list[Step | Meeting]]


@dataclass
class _Relocation:
    calls: list[Call]
    call: int
    position: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


@dataclass
class Program:
    """A rank's segments, and the table by which their operands are bound.

    `meet` makes the call by which a thread waits for the others.
    """

    rank: Rank
    threads: int = 1
    meet: Callable[[int], Function] | None = None
    segments: list[Segment] = field(default_factory=list)

    def __post_init__(self) -> None:
        threads, self._engine = self.threads, self.rank.engine
        self._reads: Touched = [[] for _ in range(threads)]
        self._writes: Touched = [[] for _ in range(threads)]
        self._relocations: dict[Value, list[_Relocation]] = {}
        #: What calls use for a value, but for those that use what stood in for it when they were written.
        self._bound: dict[Value, Array] = {}
        #: The segments of programs that leave out what is not seen, by what is; and those that are run.
        self._seeing: dict[Hashable, list[Segment]] = {}
        self.current = self.segments
        self.begin_segment()

    # -- writing --------------------------------------------------------------------------------------

    def begin_segment(self) -> None:
        """What follows comes after an exchange."""
        threads = range(self.threads)
        self.segments.append(Segment([[] for _ in threads], [[] for _ in threads], [[] for _ in threads]))
        for touched in (*self._reads, *self._writes):
            touched.clear()

    def add_task(self, task: Task, assignment: Assignment, scratch: Sequence[Scratch]) -> None:
        """Writes a task for every thread, after a meeting if one needs, or would spoil, what another has touched."""
        writers = [Writer(task, assignment, self.rank, memory, thread) for thread, memory in enumerate(scratch)]
        for writer, tiles in zip(writers, task.tiles, strict=True):
            writer.write(tiles)
        self._add(writers)
        if assignment.terms or assignment.late:
            last = Writer(task, assignment, self.rank, scratch[0])
            last.conclude([thread for thread, tiles in enumerate(task.tiles) if tiles])
            self._add([last])

    def _add(self, writers: Sequence[Writer]) -> None:
        """Appends what has been written for the first threads."""
        reads = [list(writer.located.reads.values()) for writer in writers]
        writes = [list(writer.located.writes.values()) for writer in writers]
        if self._collide(reads, writes):
            self._meet()
        segment = self.segments[-1]
        for thread, writer in enumerate(writers):
            before = len(segment.calls[thread])
            segment.steps[thread] += [
                replace(step, start=before + step.start, stop=before + step.stop) for step in writer.recorder.steps
            ]
            segment.calls[thread] += writer.recorder.calls
            segment.nodes[thread] += writer.recorder.nodes
            self._reads[thread] += reads[thread]
            self._writes[thread] += writes[thread]

    def _collide(self, reads: Touched, writes: Touched) -> bool:
        return any(
            _overlap(reads[one], self._writes[other])
            or _overlap(writes[one], self._writes[other])
            or _overlap(writes[one], self._reads[other])
            for one in range(len(reads))
            for other in range(self.threads)
            if one != other
        )

    def _meet(self) -> None:
        if self.meet is not None:
            segment = self.segments[-1]
            for thread, calls in enumerate(segment.calls):
                segment.steps[thread].append(Meeting(len(calls)))
                calls.append((self.meet(thread), ()))
                segment.nodes[thread].append(None)
        for touched in (*self._reads, *self._writes):
            touched.clear()

    def forget_steps(self) -> None:
        """Lets go of the steps, which hold on to the buffers that calls had before they were bound to a caller's."""
        for segment in self.segments:
            for steps in segment.steps:
                steps.clear()

    # -- binding --------------------------------------------------------------------------------------

    def find_relocations(self, stand_ins: Mapping[Value, Array]) -> None:
        """Notes which operands of which calls lie in the buffers `stand_ins`."""
        touched = ((addresses(self._engine, array), index) for index, array in enumerate(stand_ins.values()))
        ranges = sorted((*found, index) for found, index in touched if found is not None)
        starts, values = [low for low, _, _ in ranges], list(stand_ins)
        #: The arrays, most of which many calls share, that lie in none: to ask where one lies takes a microsecond.
        others: set[int] = set()
        address_of, kind = self._engine.address, self._engine.xp.ndarray
        for segment in self.segments:
            for calls in segment.calls:
                for c, (_, arguments) in enumerate(calls):
                    for p, array in enumerate(_flat(arguments)):
                        if id(array) in others or not isinstance(array, kind):
                            continue
                        address = address_of(array)
                        at = bisect.bisect_right(starts, address) - 1
                        if at >= 0 and address < ranges[at][1] and array.size:
                            where = _Relocation(
                                calls, c, p, address - starts[at], array.shape, array.strides, array.dtype
                            )
                            self._relocations.setdefault(values[ranges[at][2]], []).append(where)
                        else:
                            others.add(id(array))

    def bound(self, value: Value) -> Array | None:
        """The array that was last bound to `value`; None without one, or if calls were left between two."""
        return self._bound.get(value)

    def bind(self, value: Value, array: Array) -> None:
        """Makes the calls use `array`, C-contiguous, for `value`.

        Broken off, by an interrupt, it leaves nothing bound, so that whoever comes next begins anew.
        """
        self._bound.pop(value, None)
        self._relocate(self._relocations.get(value, ()), array)
        self.rank.arrays[value] = self._bound[value] = array

    def _relocate(self, relocations: Iterable[_Relocation], array: Array) -> None:
        for r in relocations:
            function, arguments = r.calls[r.call]
            view = self._engine.view(array, r.shape, r.dtype, r.offset, r.strides)
            r.calls[r.call] = (function, _replaced(arguments, r.position, view))

    # -- what is seen ---------------------------------------------------------------------------------

    def follows(self, seen: Hashable) -> bool:
        """Whether it is there as a program that leaves out what is not seen, and if so, makes it run that way.

        None for everything. See `adopt`.
        """
        found = self.segments if seen is None else self._seeing.get(seen)
        if found is not None:
            self.current = found
        return found is not None

    def adopt(self, seen: Hashable, other: Program, most: int) -> None:
        """Takes over a program that does the same, leaving out what is not seen, on the same arena and scratch.

        `other` has buffers of its own for arguments and results; its calls are bound as this program's are. Of more
        than `most` the oldest is given up.
        """
        if len(self._seeing) >= most:
            oldest = self._seeing.pop(next(iter(self._seeing)))
            gone = {id(calls) for segment in oldest for calls in segment.calls}
            for mine in self._relocations.values():
                mine[:] = [each for each in mine if id(each.calls) not in gone]
        for value, relocations in other._relocations.items():
            if value in self._bound:
                other._relocate(relocations, self._bound[value])
            self._relocations.setdefault(value, []).extend(relocations)
        self._seeing[seen] = other.segments


def _flat(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A call's arguments, those within tuples among them; few calls have such."""
    if tuple not in map(type, arguments):
        return arguments
    return tuple(chain.from_iterable(_flat(each) if type(each) is tuple else (each,) for each in arguments))


def _replaced(arguments: tuple[Any, ...], position: int, view: Array) -> tuple[Any, ...]:
    """`arguments` with the one at a place in their flat count replaced."""
    result: list[Any] = []
    count = 0
    for each in arguments:
        size = len(_flat(each)) if type(each) is tuple else 1
        if count <= position < count + size:
            each = _replaced(each, position - count, view) if type(each) is tuple else view
        result.append(each)
        count += size
    return tuple(result)


def _overlap(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in one for c, d in other)
