"""Buffer assignment: whose memory each of a task's values has, and until when.

A value's memory is one of these:

    a buffer of the graph     of an argument or of what another task has made, a part for each tile; what leaves the
                              task is made where it belongs, if need be through the views that lead there (T, R, C)
    a buffer of the task      of a sum over tiles that leaves it only as something else, and of each thread's terms of
                              a sum that threads share
    scratch                   of one tile, given back behind the last node that reads it
    another value's           which nobody reads any more (in-place reuse): an output may be written over an operand,
                              where its rule allows it, element by element

All of it follows from one list of reads: of each value that has memory, which nodes read it or a view of it, and
whether it is copied to where a result belongs when the tile, or the whole task, is done.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial

from graphir.backends.communicator.interface import IN_PLACE
from graphir.backends.compiled.emission import Rules
from graphir.backends.compiled.strided import StridedLayout, view_of
from graphir.backends.compiled.task import Shape, Task, Tile
from graphir.backends.plan import keywords
from graphir.ir.graph import Node
from graphir.ir.value import Value


@dataclass(frozen=True)
class TaskBuffer:
    """A buffer that a task alone has: of a sum, or of every thread's terms of it, [threads, …]."""

    value: Value
    threads: int = 0

    @property
    def name(self) -> str:
        """What it is called in a plan."""
        return f"{self.value.name} ({'its terms' if self.threads else 'the sum'})"


@dataclass
class Assignment:
    """Of a task's own values, whose memory each has.

    first      for each value that has memory, the first that had the same memory
    buffers    for each such first, the graph's value, or the task's own, whose buffer it is; else it lies in scratch
    paths      of what lies in its buffer as the views `path` make of it: the views, the one next to the buffer first
    last       for each value that has memory, the position of the last node that reads it or a view of it; behind all
               nodes if it stays, or is copied to where a result belongs
    finish     what is copied to where it belongs tile by tile
    late       what is copied there when all threads are done
    terms      of a sum of which each thread makes a term, to be added up when all are done: where the terms are
    reuses     (new, old): values of the graph, where the new one is written over the old one
    """

    first: dict[Value, Value] = field(default_factory=dict)
    buffers: dict[Value, Value | TaskBuffer] = field(default_factory=dict)
    paths: dict[Value, tuple[Node, ...]] = field(default_factory=dict)
    last: dict[Value, int] = field(default_factory=dict)
    finish: list[Value] = field(default_factory=list)
    late: list[Value] = field(default_factory=list)
    terms: dict[Value, TaskBuffer] = field(default_factory=dict)
    reuses: list[tuple[Value, Value]] = field(default_factory=list)

    def buffer(self, value: Value) -> Value | TaskBuffer | None:
        """The buffer in which a value lies; None of what lies in scratch."""
        return self.buffers.get(self.first[value])

    def until(self, first: Value) -> int:
        """The position of the last node that reads anything of the memory that begins with `first`."""
        return max(self.last.get(value, -1) for value, begun in self.first.items() if begun is first)

    def ends(self) -> dict[Value, int]:
        """`until` of every memory, by its first value."""
        found: dict[Value, int] = {}
        for value, first in self.first.items():
            found[first] = max(found.get(first, -1), self.last.get(value, -1))
        return found

    @property
    def task_buffers(self) -> Iterator[TaskBuffer]:
        """The buffers that the task alone has."""
        yield from (each for each in self.buffers.values() if isinstance(each, TaskBuffer))
        yield from self.terms.values()


@dataclass(frozen=True)
class Reuse:
    """Which of the graph's memory a task may reuse in place.

    dying    values that nothing reads later, with the number of the task that made each
    fixed    results that may not be written over what passes between tasks: those that overwrite an argument, and what
             one rank makes for others
    donated  arguments that nothing reads later, with the result that overwrites each
    halves   values of which only the causal half is stored
    """

    dying: Mapping[Value, int]
    fixed: Set[Value]
    donated: Mapping[Value, Value]
    halves: Set[Value]


def assign(task: Task, sizes: Mapping[str, int], reuse: Reuse, rules: Rules) -> Assignment:
    """The assignment of a task that has its tiles."""
    return _Assigner(task, sizes, reuse, rules).run()


class _Assigner:
    def __init__(self, task: Task, sizes: Mapping[str, int], reuse: Reuse, rules: Rules) -> None:
        self.task, self.sizes, self.reuse, self.rules = task, sizes, reuse, rules
        self.made = Assignment()
        self.end = len(task.nodes)
        self.roles: dict[Value, int] = {}
        for value in task.entering:
            self.roles[task.outer[value]] = self.roles.get(task.outer[value], 0) + 1

    def run(self) -> Assignment:
        task, made = self.task, self.made
        for value in task.entering:
            made.first[value] = value
            made.buffers[value] = task.outer[value]
        self._find_reads()
        self._find_paths()
        for position, node in enumerate(task.nodes):
            if not node.operator.view:
                self._place_results(position, node)
        for value in task.leaving:
            if task.root[value] is value and value not in made.paths and value not in task.entering:
                self._put(value, task.outer[value])
        self._place_sums()
        self._find_copies()
        return made

    # -- who reads what -------------------------------------------------------------------------------

    def _find_reads(self) -> None:
        last, root = self.made.last, self.task.root
        for position, node in enumerate(self.task.nodes):
            if not node.operator.view:
                last.update((root[value], position) for value in node.inputs)
        last.update((root[value], self.end) for value in self.task.leaving)

    # -- results made through views -------------------------------------------------------------------

    def _find_paths(self) -> None:
        """What leaves as a view is made in the buffer that it leaves in, if the view can be seen back everywhere."""
        made, task = self.made, self.task
        leaving = set(task.leaving)
        for value in task.leaving:
            here = task.root[value]
            path = tuple(reversed(task.views_to(value)))
            if not path or here not in task.producers or here in leaving or here in made.paths:
                continue
            if all(node.operator.inverse is not None for node in path) and self._can_be_seen_back(value, path):
                made.paths[here] = path
                made.first[here] = here
                made.buffers[here] = task.outer[value]

    def _can_be_seen_back(self, value: Value, path: tuple[Node, ...]) -> bool:
        """Whether what leaves can be written as what its first view reads, in the tile's part and as a whole."""
        task = self.task
        whole = StridedLayout.contiguous(task.shapes[value])
        given = {node: keywords(node, task.shapes, self.sizes) for node in path}
        for tile in (*_kinds_of_tiles(task), {}):
            shape = task.shape(value, tile)
            layout: StridedLayout | None = whole.part(shape)
            if task.outer[value] in self.reuse.halves:
                layout = StridedLayout.contiguous(shape)
            for node in path:
                assert layout is not None
                layout = view_of(layout, node.operator.inverse, task.shape(node.inputs[0], tile), given[node])
                if layout is None:
                    return False
        return True

    # -- results written over operands ----------------------------------------------------------------

    def _place_results(self, position: int, node: Node) -> None:
        """Memory for what a node makes: an operand's, or new."""
        made, task = self.made, self.task
        taken: set[Value] = set()
        for name, value in zip((o.name for o in node.inference.rule.outputs), node.outputs, strict=True):
            if value in made.paths:
                continue
            made.first[value] = value
            if value in task.space.summed:
                continue
            target = task.outer.get(value)
            for operand in sorted(self._candidates(node, name), key=partial(self._age, target=target)):
                if operand not in taken and self._may_reuse(position, node, operand, value):
                    made.first[value] = made.first[operand]
                    taken.add(operand)
                    break

    def _candidates(self, node: Node, output: str) -> Iterable[Value]:
        """The operands over which an output may be written."""
        if node.operator.relayout is not None:
            return node.inputs if node.operator.collective in IN_PLACE else ()
        rule = self.rules.find(node.operator)
        if rule is None:
            rule = self.rules.by_formula(node, keywords(node, self.task.shapes, self.sizes))
        if rule is None:
            # A reference kernel has finished before its result is copied.
            return node.inputs
        named = dict(zip((o.name for o in node.inference.rule.inputs), node.inputs, strict=True))
        return [named[name] for name in rule.inplace.get(output, ()) if name in named]

    def _age(self, operand: Value, target: Value | None) -> float:
        # The oldest is the best to reuse: a result's buffer then holds what would have occupied the arena longest.
        source = self._source(operand)
        # None better than what is to be overwritten anyway: the result needs no buffer then.
        donated = target is not None and source is not None and self.reuse.donated.get(source) is target
        return -1 if donated else self.reuse.dying.get(source, math.inf) if source is not None else math.inf

    def _source(self, operand: Value) -> Value | None:
        """The graph's value in whose buffer an operand lies."""
        found = self.made.buffers.get(self.made.first.get(operand, operand))
        return found if isinstance(found, Value) else None

    def _may_reuse(self, position: int, node: Node, operand: Value, value: Value) -> bool:
        """Whether `value` may be written over `operand`, an operand of its node."""
        made, task = self.made, self.task
        if operand not in made.first or operand in made.paths or operand in task.space.summed:
            return False
        first = made.first[operand]
        same = (
            operand.dtype == value.dtype
            and task.shapes[operand] == task.shapes[value]
            and task.space.dims[operand] == task.space.dims[value]
        )
        # Nobody else reads that memory here or later: not as another operand of the node, nor as a view.
        reads = sum(made.first.get(task.root[each]) is first for each in node.inputs)
        if not same or reads != 1 or made.until(first) > position or not task.is_cut(operand):
            return False
        source = self._source(operand)
        if source is None:
            return True
        target = task.outer.get(value)
        # A half lies otherwise than what is whole; what is itself a half is never among the dying.
        if target in self.reuse.halves:
            return False
        free = source in self.reuse.dying and target not in self.reuse.fixed
        free = free or (target is not None and self.reuse.donated.get(source) is target)
        # In another role other tiles would read it.
        return free and self.roles.get(source, 0) <= 1

    def _put(self, value: Value, buffer: Value) -> None:
        """Lets what leaves lie in its buffer, with all over which it is written."""
        made = self.made
        first = made.first[value]
        if first is not value and first in self.task.entering:
            made.reuses.append((buffer, self.task.outer[first]))
        made.buffers[first] = buffer

    # -- sums over tiles, and copies ------------------------------------------------------------------

    def _place_sums(self) -> None:
        """Sums that leave only as something else have a buffer of the task's; so have the terms of several threads."""
        made, task = self.made, self.task
        threads = sum(bool(tiles) for tiles in task.tiles)
        for value, over in task.space.summed.items():
            if task.root[value] is not value or value not in made.last:
                continue
            if value not in made.buffers:
                made.buffers[value] = TaskBuffer(value)
            if threads > 1 and task.split in over:
                # They lie as the sum does.
                path = made.paths.get(value)
                made.terms[value] = TaskBuffer(value if path is None else path[0].outputs[0], len(task.tiles))

    def _find_copies(self) -> None:
        made, task = self.made, self.task
        for value in task.leaving:
            root = task.root[value]
            in_place = made.paths[root][0].outputs[0] is value if root in made.paths else root is value
            if in_place and root not in task.entering:
                continue
            # A sum is there when all of it is; what lacks a loop would be written by every thread.
            late = root in task.space.summed or not task.is_cut(value)
            (made.late if late else made.finish).append(value)


def _kinds_of_tiles(task: Task) -> Iterator[Tile]:
    """Tiles of every shape that a task's have: of each loop a first, a middle and a last piece."""
    seen: set[Shape] = set()
    for tiles in task.tiles:
        if not tiles:
            continue
        assert tiles.pieces is not None
        for pieces in itertools.product(*(each.samples() for each in tiles.pieces)):
            tile = tiles.tile(dict(zip((each.loop for each in tiles.pieces), pieces, strict=True)))
            for each in (tile, *_seen_in_part(task, tile)):
                widths = tuple(stop - start for start, stop in each.values())
                if widths not in seen:
                    seen.add(widths)
                    yield each


def _seen_in_part(task: Task, tile: Tile) -> Iterator[Tile]:
    """What a tile is where its queries see few keys."""
    if task.causal is not None and task.causal.sight is not None:
        yield {**tile, task.causal.k: (0, 1)}
