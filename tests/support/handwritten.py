"""Programs written down by hand, call by call, for the checker of programs to prove, or to find at fault.

program = Handwritten(graph, {"B": 4, "D": 2})
X, Y = program.argument("X"), program.result("Y")
program.compute("Y", [X[:2]], [Y[:2]], (np.exp, X[:2], Y[:2]))
program.prove()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import graphir as gi
from graphir.backends.proof import Proof, Trace
from graphir.backends.proof.twice import prove_twice
from graphir.backends.trace import ADD, CLEAR, COMPUTE, COPY, Exchange, Meeting, Step, ThreadTrace
from graphir.ir.dims import resolve_sizes
from graphir.ir.graph import Graph
from graphir.ir.operator import Place


class Handwritten:
    """A program of `graph` in the making: one rank's, of some threads."""

    def __init__(self, graph: Graph, sizes: dict[str, int], threads: int = 1) -> None:
        self.graph, self.sizes, self.threads = graph, dict(resolve_sizes([graph.dims], sizes)), threads
        self._arguments: dict[gi.Value, Any] = {}
        self._results: dict[gi.Value, Any] = {}
        self._segments: list[list[ThreadTrace]] = []
        self._exchanges: list[list[Exchange]] = [[]]
        self.constants: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._segments.append([ThreadTrace([]) for _ in range(self.threads)])

    def array(self, name: str) -> Any:
        """Memory for all of a value."""
        value = self.graph[name]
        return np.empty([dim.size(self.sizes) for dim in value.shape], value.dtype)

    def argument(self, name: str) -> Any:
        """The same, where an argument lies."""
        return self._arguments.setdefault(self.graph[name], self.array(name))

    def result(self, name: str, array: Any = None) -> Any:
        """The same, where a result is looked for."""
        return self._results.setdefault(self.graph[name], self.array(name) if array is None else array)

    # -- steps ----------------------------------------------------------------------------------------

    def _step(self, thread: int, calls: Sequence[Any], **what: Any) -> None:
        trace = self._segments[-1][thread]
        assert isinstance(trace.calls, list)
        start = len(trace.calls)
        trace.calls += [(function, arguments) for function, *arguments in calls]
        trace.steps.append(Step(within=None, start=start, stop=len(trace.calls), **what))

    def compute(
        self,
        name: str,
        operands: Sequence[Any],
        results: Sequence[Any],
        *calls: Any,
        thread: int = 0,
        place: Place | None = None,
    ) -> None:
        """A step that computes the node which makes the value `name`."""
        node = self.graph.producers[self.graph[name]]
        self._step(
            thread, calls, kind=COMPUTE, nodes=(node,), operands=(tuple(operands),), results=(tuple(results),),
            places=(place,),
        )  # fmt: skip

    def copy(self, name: str, source: Any, target: Any, thread: int = 0) -> None:
        """A step that copies a part of a value."""
        value = self.graph[name]
        self._step(
            thread, [(np.copyto, target, source)], kind=COPY, nodes=(), operands=((source,),), results=((target,),),
            value=value,
        )  # fmt: skip

    def add(self, name: str, one: Any, other: Any, target: Any, thread: int = 0, kind: str = ADD) -> None:
        """A step that adds two terms of a sum."""
        value = self.graph[name]
        self._step(
            thread, [(np.add, one, other, target)], kind=kind, nodes=(), operands=((one, other),),
            results=((target,),), value=value,
        )  # fmt: skip

    def clear(self, name: str, target: Any, thread: int = 0) -> None:
        """A step that sets a part of a sum to 0."""
        value = self.graph[name]
        calls = [(np.copyto, target, np.float32(0))]
        self._step(thread, calls, kind=CLEAR, nodes=(), operands=((),), results=((target,),), value=value)

    def meet(self, *threads: int) -> None:
        """A meeting of all threads, or of those that are named."""
        for thread in threads or range(self.threads):
            trace = self._segments[-1][thread]
            assert isinstance(trace.calls, list)
            trace.steps.append(Meeting(len(trace.calls)))
            trace.calls.append((lambda: None, ()))

    def exchange(self, kind: str, name: str, operand: Any = None, result: Any = None) -> None:
        """What ranks do together, behind all steps so far; those that come are of another segment."""
        self._exchanges.append([Exchange(kind, self.graph.producers[self.graph[name]], operand, result)])
        self._begin()

    # -- proving --------------------------------------------------------------------------------------

    def trace(self, rank: int = 0) -> Trace:
        """All that has been written down."""
        return Trace(
            self.graph, self.sizes, rank, self._arguments, self._results, self._segments,
            [*self._exchanges, []], self.constants,
        )  # fmt: skip

    def prove(self) -> Proof:
        """As `graphir.backends.proof.prove`, by lemmas and step by step."""
        return prove_twice(self.trace())
