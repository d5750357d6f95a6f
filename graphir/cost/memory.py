"""Memory: the most that a rank's values hold at any time of a run, and which values those are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from graphir.cost.communication import mesh_sizes
from graphir.ir.analysis import last_uses
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import local_shape
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


class Peak(NamedTuple):
    """The fullest moment of a run: bytes, the node at work, and the values alive, the largest first."""

    bytes: int
    node: Node | None
    values: tuple[tuple[Value, int], ...]


def peak_memory(graph: Graph, sizes: Sizes) -> Peak:
    """The peak of a rank that runs the graph's nodes in order and frees each value after its last reader.

    Arguments and outputs live throughout; what passes between the nodes of a fused one is never there as a whole, and
    is not counted. Kernels' own temporaries are not counted, and a view (T, R, BC) counts
    as if it were a copy, so this is an upper bound of what values need.
    """
    complete = mesh_sizes(graph, sizes)

    def size_of(value: Value) -> int:
        count = DTYPES[value.dtype]
        for dim in local_shape(value.shape, value.type.layout):
            count *= dim.size(complete)
        return count

    alive = {value: size_of(value) for value in graph.arguments}
    now = sum(alive.values())
    peak, at, held = now, None, dict(alive)
    for node, dying in zip(graph.nodes, last_uses(graph.nodes, {*graph.outputs, *graph.arguments}), strict=True):
        made = {value: size_of(value) for value in node.outputs}
        alive |= made
        now += sum(made.values())
        if now > peak:
            peak, at, held = now, node, dict(alive)
        now -= sum(alive.pop(value) for value in dying)
    return Peak(peak, at, _largest(held.items()))


def _largest(values: Iterable[tuple[Value, int]]) -> tuple[tuple[Value, int], ...]:
    return tuple(sorted(values, key=lambda item: -item[1]))
