"""What a program does, step by step, put down by whoever writes it, for whoever proves it.

A *step* is a few consecutive calls of one thread that together do one thing on one tile: compute nodes, copy a value,
add a term to a sum, set a sum to 0. It names nodes and values of the graph that runs, or of the bodies of its fused
nodes, and the arrays that stand for their operands and results; of tiles, loops and buffers it says nothing. What part
of a value an array is follows from its address, its shape and its strides.

Views (T, R, C, BC) are no steps: the array that stands for what a view makes lies in its operand's memory. Where that
cannot be, a step copies: it computes the view node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from graphir.backends.inequalities import Rule
from graphir.ir.graph import Graph, Node
from graphir.ir.inference import Place
from graphir.ir.value import Value

Array: TypeAlias = Any
Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
#: The arrays of a node's operands, or results, in the order of the node's; None for what has no memory of its own.
Arrays: TypeAlias = tuple[Array | None, ...]

COMPUTE, COPY, ADD, MAXIMUM, CLEAR = "compute", "copy", "add", "maximum", "clear"


@dataclass(frozen=True)
class Step:
    """Calls `start` to `stop` of one thread's list.

    kind       COMPUTE: `nodes`, in order, of their operands; several nodes where one kernel computes them, and then
               what passes between them may have no array. A result whose node sums over more than its operands' tile
               holds is a term of that sum, to be added to others
               COPY: the part of `value` in operands[0][0] is copied to results[0][0]
               ADD, MAXIMUM: results[0][0] is the sum, or maximum, of two terms of `value`, operands[0]
               CLEAR: results[0][0], a part of the sum `value`, is set to 0: no term is in it
    nodes      the nodes of the graph, or of a fused node's body, that are computed; else none
    within     the fused node whose body they, or `value`, belong to; None for the graph's own
    operands   for each node its operands' arrays, or the arrays that a copy, an addition reads
    results    for each node its results' arrays, or the one that is written
    places     for each node that asks where its part lies in the global tensors (`at`), what it was told; else None
    """

    kind: str
    nodes: tuple[Node, ...]
    within: Node | None
    operands: tuple[Arrays, ...]
    results: tuple[Arrays, ...]
    start: int
    stop: int
    value: Value | None = None
    places: tuple[Place | None, ...] = ()


@dataclass(frozen=True)
class Meeting:
    """Where a thread waits for all others; every thread of a segment has as many. It is the call `start`."""

    start: int


@dataclass
class ThreadTrace:
    """One thread's calls of a segment, and the steps and meetings that they are."""

    calls: Sequence[Call]
    steps: list[Step | Meeting] = field(default_factory=list)


@dataclass(frozen=True)
class Exchange:
    """What ranks do together between two segments, in order; `kind` says what.

    "run"     `node`, a collective, reads `operand` and writes `result`
    "start"   the same is begun: until it has been waited for, `operand` is being read and `result` written
    "wait"    it has arrived
    "pack"    `operand` is copied into `result`, a part of a bucket, both of `node`
    "unpack"  `operand`, a part of a bucket that has arrived, is copied to `result`
    """

    kind: str
    node: Node
    operand: Array | None
    result: Array | None


@dataclass(frozen=True)
class Seen:
    """What the queries of a run see of `keys` keys: those of sequence b, `queries` at a time, none but the keys from
    lows[b][i] to highs[b][i]."""

    queries: int
    keys: int
    lows: tuple[tuple[int, ...], ...]
    highs: tuple[tuple[int, ...], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.queries, self.keys, self.lows, self.highs))


@dataclass
class Trace:
    """A rank's program.

    graph       what runs: plain and fused nodes, collectives
    sizes       of its named dims
    rank        which of the mesh's ranks this is
    arguments   where each argument's block lies when the run begins, C-contiguous
    results     where each output's block lies when it ends, C-contiguous
    segments    what the threads do, a list a segment; exchanges[i] come before segment i, and one list more comes last
    constants   arrays that nobody writes after the program has been made
    seen        for nodes whose operands say what is seen, of the graph or of a fused node's body: what the program is
                for; it is run where its arguments show no more
    rules       for such nodes: by which it is told, run by run, what ranges of queries see of ranges of keys
    """

    graph: Graph
    sizes: Mapping[str, int]
    rank: int
    arguments: Mapping[Value, Array]
    results: Mapping[Value, Array]
    segments: list[list[ThreadTrace]]
    exchanges: list[list[Exchange]]
    constants: Sequence[Array] = ()
    seen: Mapping[Node, Seen] = field(default_factory=dict)
    rules: Mapping[Node, Rule] = field(default_factory=dict)
