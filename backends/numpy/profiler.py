"""Measuring a profile: every thread looks at the clock before and after each of its calls.

What lies between two looks, less what a look costs, belongs to one row. Two threads share Python's interpreter: one
whose call is done may have to wait until it can go on, and such time counts as the call's, or as overhead.

Bytes are those of the arrays that a call is handed, each as often as it is handed it: of `np.add(X, Y, X)` twice X's.
Those of a cached array need not come from memory. FLOPs are counted as in `graphir.cost`, but over the tiles that are
worked on: what a causal mask spares is not counted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from graphir.backends.compiled.emission import Function
from graphir.backends.compiled.program import Program
from graphir.backends.compiled.report import report_of
from graphir.backends.compiled.segment import Segment
from graphir.backends.compiled.task import Task
from graphir.backends.compiled.writer import Call
from graphir.backends.numpy.calls import maximum
from graphir.backends.numpy.profile import (
    ATTENTION,
    ATTENTION_PRODUCT,
    BINDING,
    COLLECTIVE,
    ELEMENTWISE,
    OVERHEAD,
    PRODUCT,
    UPDATING,
    WAITING,
    Profile,
    Row,
)
from graphir.backends.numpy.threads import Team
from graphir.backends.plan import Step
from graphir.errors import ConfigError
from graphir.formula.flops import find_operations
from graphir.ir.analysis import contracted
from graphir.ir.graph import UPDATE, Node

T = TypeVar("T")
#: A rank's position, a task's, a node (None for all of its task), a kind.
_Key: TypeAlias = tuple[int | None, int | None, Node | None, str]
#: What adds up a product's terms, of several tiles or threads, or brings it to its place.
_ADDING: tuple[Function, ...] = (np.add, maximum, np.copyto)


class Profiler:
    """Carries out an executable's segments and exchanges with a clock in hand.

    Whose each stretch between two looks at the clock is, is settled beforehand: `_owners` holds, for every rank,
    segment and thread, the rows of the stretch before the first call, of the first call, before the second, …, after
    the last.
    """

    def __init__(self, tasks: Sequence[Task], programs: Sequence[Program], ranks: Sequence[int], team: Team) -> None:
        self.tasks, self.programs, self.ranks, self.team = tasks, programs, ranks, team
        self.threads = team.threads
        self._position = {node: i for i, task in enumerate(tasks) for node in task.nodes}
        self._collectives = [i for i, task in enumerate(tasks) if task.node.operator.relayout is not None]
        self._streams = {i for i, task in enumerate(tasks) if sum(bool(contracted(node)) for node in task.nodes) > 1}
        #: The rows, numbered as they are met with, and what is known of each without running it: calls and bytes.
        self._rows: dict[_Key, int] = {}
        self._handed: list[list[int]] = []
        self._owners = [
            [self._settle(rank, index) for index in range(len(program.current))]
            for rank, program in enumerate(programs)
        ]
        self._exchanged = {tasks[i].node: self._row(None, i, tasks[i].node, COLLECTIVE) for i in self._collectives}
        self._around = self._row(None, None, None, BINDING)
        self._look = look_seconds()
        self._segments: list[tuple[int, int, float, list[list[float]], float]] = []
        self._exchanges: list[tuple[Node, float, float]] = []

    def measure(self, plain: Callable[[], object], timed: Callable[[], object], repetitions: int) -> Profile:
        """The profile of `repetitions` runs by `timed`, which uses this profiler, in turn with as many by `plain`."""
        if repetitions < 1:
            raise ConfigError(f"a profile needs at least one repetition, not {repetitions}")
        tables, as_they_are, profiled = [], [], []
        for _ in range(repetitions):
            as_they_are.append(_seconds(plain))
            self._segments.clear()
            self._exchanges.clear()
            profiled.append(_seconds(timed))
            tables.append(self._table(profiled[-1]))
        # A stretch may come out shorter than a look at the clock takes on average.
        medians = np.median(tables, axis=0).clip(0)
        rows = [self._label(key, medians[number].tolist()) for key, number in self._rows.items()]
        return Profile(
            tuple(row for row in rows if row.calls or any(row.seconds)),
            self.threads,
            repetitions,
            statistics.median(as_they_are),
            statistics.median(profiled),
            self._look,
            tuple(map(str, report_of(self.programs, self.tasks).fallbacks)),
        )

    def run_segment(self, rank: int, index: int) -> None:
        """Carries out a segment; `rank` counts those that are held here."""
        calls = self.programs[rank].current[index].calls
        looks: list[list[float]] = [[] for _ in calls]
        start = time.perf_counter()
        self.team.run([[(_carry_out, (each, seen.append))] for each, seen in zip(calls, looks, strict=True)])
        self._segments.append((rank, index, start, looks, time.perf_counter()))

    def timing(self, exchange: Callable[[Step], T]) -> Callable[[Step], T]:
        """`exchange`, timed."""

        def timed(step: Step) -> T:
            start = time.perf_counter()
            result = exchange(step)
            self._exchanges.append((step.node, start, time.perf_counter()))
            return result

        return timed

    # -- whose time it is -----------------------------------------------------------------------------

    def _row(self, rank: int | None, task: int | None, node: Node | None, kind: str) -> int:
        """The number of a row."""
        number = self._rows.setdefault((rank, task, node, kind), len(self._rows))
        if number == len(self._handed):
            self._handed.append([0, 0])
        return number

    def _settle(self, rank: int, index: int) -> list[NDArray[np.intp]]:
        """For each thread, whose each stretch of a segment is."""
        segment = self.programs[rank].current[index]
        reached = _reached(segment, self._position, self._collectives[index - 1] if index else None)
        owners = []
        for thread, (calls, nodes) in enumerate(zip(segment.calls, segment.nodes, strict=True)):
            mine: list[int] = []
            meetings = iter(reached)
            for (function, arguments), node in zip(calls, nodes, strict=True):
                at = next(meetings) if node is None else self._position[node]
                mine.append(self._row(rank, at, None, OVERHEAD))
                if node is None:
                    mine.append(self._row(rank, at, None, WAITING))
                    continue
                mine.append(self._row(rank, at, node, self._kind(node, function)))
                self._handed[mine[-1]][0] += 1
                self._handed[mine[-1]][1] += handed_bytes(arguments)
            mine.append(self._row(rank, next(meetings), None, WAITING if self.threads > 1 else OVERHEAD))
            if thread > 0 and nodes:
                # The first thread is the caller's; the others have to wake.
                mine[0] = self._row(rank, reached[0] if nodes[0] is None else self._position[nodes[0]], None, WAITING)
            owners.append(np.array(mine, np.intp))
        return owners

    def _kind(self, node: Node, function: Function | None = None) -> str:
        """What a call for `node` is; without a call, what most of its work is."""
        in_stream = self._position[node] in self._streams
        if contracted(node) and function not in _ADDING:
            return ATTENTION_PRODUCT if in_stream else PRODUCT
        if in_stream:
            return ATTENTION
        return UPDATING if node.meta.phase == UPDATE else ELEMENTWISE

    def _table(self, elapsed: float) -> NDArray[np.float64]:
        """Seconds [rows, threads] of the run that has just been, which took `elapsed` seconds in all."""
        table = np.zeros((len(self._rows), self.threads))
        inside = 0.0
        for rank, index, start, looks, stop in self._segments:
            for thread, (seen, owners) in enumerate(zip(looks, self._owners[rank][index], strict=True)):
                stretches = np.diff([start, *seen, stop]) - self._look
                table[:, thread] += np.bincount(owners, stretches, len(table))
            inside += stop - start
        # The rest is done by one thread for all of them: none has anything else to do meanwhile.
        for node, start, stop in self._exchanges:
            table[self._exchanged[node]] += stop - start
            inside += stop - start
        table[self._around] += elapsed - inside
        return table

    def _label(self, key: _Key, seconds: Sequence[float]) -> Row:
        """A row, with what can be said of it without running it."""
        rank, at, node, kind = key
        calls, handed = self._handed[self._rows[key]]
        task = None if at is None else self.tasks[at]
        named = node or (task.node if task else None)
        flops = 0
        name = named.name if named else ""
        if node is not None and task is not None and kind != COLLECTIVE:
            # The points of its iteration space are the product's; what adds its terms up has none of its own.
            is_whole = kind == self._kind(node)
            flops, name = (node_flops(task, node), name) if is_whole else (0, f"{name}, terms added")
        return Row(
            tuple(seconds),
            1 if kind == COLLECTIVE else calls,
            flops,
            handed,
            node=name,
            operator=node.operator.key if node else "",
            scope=named.meta.scope if named else "",
            phase=named.meta.phase if named else "",
            task=task.node.name if task else "",
            kind=kind,
            rank=None if rank is None else self.ranks[rank],
        )


def _reached(segment: Segment, position: Mapping[Node, int], before: int | None) -> list[int | None]:
    """For each meeting of a segment, and for its end, the last task that any thread has come to by then.

    `before` is the collective that the segment follows.
    """
    found: list[list[int]] = []
    for nodes in segment.nodes:
        last, mine = -1 if before is None else before, []
        for node in nodes:
            if node is None:
                mine.append(last)
            else:
                last = position[node]
        found.append([*mine, last])
    return [None if max(each) < 0 else max(each) for each in zip(*found, strict=True)]


def node_flops(task: Task, node: Node) -> int:
    """The floating-point operations of a node on all tiles of its task, on one rank."""
    factors, total = task.space.factors[node], Fraction(0)
    tiles = [tile for some in task.tiles for tile in some]
    for visited, count in find_operations(node).items():
        axes = [(factors[name],) for name in node.inference.rule.factors if name in visited]
        total += count * sum(math.prod(task.width(axis, tile) for axis in axes) for tile in tiles)
    return int(total)


def handed_bytes(arguments: Iterable[Any]) -> int:
    """The bytes of the arrays among a call's arguments; a dim along which an array only repeats itself counts once."""
    found = 0
    for each in arguments:
        if isinstance(each, tuple):
            found += handed_bytes(each)
        elif isinstance(each, np.ndarray):
            sizes = (size for size, stride in zip(each.shape, each.strides, strict=True) if stride or not size)
            found += each.itemsize * math.prod(sizes)
    return found


def look_seconds(repetitions: int = 2000) -> float:
    """What a look at the clock takes, and noting what it says: the median of some."""
    seen: list[float] = []
    clock, look = time.perf_counter, seen.append
    for _ in range(repetitions):
        look(clock())
        look(clock())
    return float(np.median(np.diff(seen)[::2]))


def _carry_out(calls: Sequence[Call], look: Callable[[float], None]) -> None:
    clock = time.perf_counter
    with np.errstate(all="ignore"):
        for function, arguments in calls:
            look(clock())
            function(*arguments)
            look(clock())


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
