"""What a writer has written: calls, whose they are, and, where a proof is wanted, the steps that they make up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphir.backends.compiled.emission import Array, Function
from graphir.backends.compiled.task import Task
from graphir.backends.trace import ADD, CLEAR, COMPUTE, COPY, MAXIMUM, Step
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.value import Value


class Recorder:
    """The calls of one thread for one task; `steps` name the graph's nodes and values, not the task's.

    Every method but a call itself is told at which call its step began.
    """

    def __init__(self, task: Task, traced: bool) -> None:
        self._task, self._traced = task, traced
        self.calls: list[tuple[Function, tuple[Any, ...]]] = []
        #: The node that each call is part of.
        self.nodes: list[Node] = []
        self.steps: list[Step] = []
        #: The node that is being written.
        self.node = task.nodes[-1]

    def __call__(self, function: Function, arguments: tuple[Any, ...]) -> None:
        self.calls.append((function, arguments))
        self.nodes.append(self.node)

    @property
    def now(self) -> int:
        """The call that comes next."""
        return len(self.calls)

    def clear(self) -> None:
        """Begins anew: whoever wanted what has been written has it."""
        self.calls, self.nodes, self.steps = [], [], []

    def forget(self, start: int) -> None:
        """Leaves out the calls from `start` on, which are not part of any step."""
        del self.calls[start:], self.nodes[start:]

    def computed(
        self,
        start: int,
        nodes: Sequence[Node],
        arrays: Mapping[Value, Array],
        place: Callable[[Node], Place] | None = None,
    ) -> None:
        """`nodes` have been computed; `arrays` are the parts of their operands and results that have memory.

        `place` is where a node that asks has been told that its part lies.
        """
        if self._traced and start < self.now:
            told = tuple(place(n) if place is not None and "at" in n.operator.keywords else None for n in nodes)
            read = tuple(tuple(arrays.get(value) for value in node.inputs) for node in nodes)
            made = tuple(tuple(arrays.get(value) for value in node.outputs) for node in nodes)
            origins = tuple(self._task.space.origins[node] for node in nodes)
            self._add(COMPUTE, start, read, made, origins, places=told)

    def copied(self, start: int, value: Value, source: Array, target: Array) -> None:
        """A part of `value` has been copied."""
        if self._traced:
            self._add(COPY, start, ((source,),), ((target,),), value=value)

    def added(self, start: int, value: Value, terms: Sequence[Array], total: Array, reduction: str) -> None:
        """Two terms of `value` have been added up, or their maximum taken."""
        if self._traced:
            self._add(MAXIMUM if reduction == "max" else ADD, start, (tuple(terms),), ((total,),), value=value)

    def cleared(self, start: int, value: Value, target: Array) -> None:
        """A part of the sum `value` has been set to 0."""
        if self._traced:
            self._add(CLEAR, start, (), ((target,),), value=value)

    def _add(
        self,
        kind: str,
        start: int,
        operands: tuple[tuple[Array | None, ...], ...],
        results: tuple[tuple[Array | None, ...], ...],
        nodes: tuple[Node, ...] = (),
        value: Value | None = None,
        places: tuple[Place | None, ...] = (),
    ) -> None:
        within = self._task.node if self._task.node.body is not None else None
        given = None if value is None else self._given(value)
        self.steps.append(Step(kind, nodes, within, operands, results, start, self.now, given, places))

    def _given(self, value: Value) -> Value:
        """The value of the node, or of its body, that one of the task's is."""
        space, maker = self._task.space, self._task.producers.get(value)
        if maker is None:
            return space.outside[value]
        return space.origins[maker].outputs[maker.outputs.index(value)]
