"""Units: nodes that will be one node, and the graph as they see it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphir.ir.graph import FORWARD, UPDATE, Graph, Node
from graphir.ir.value import Value
from graphir.passes.patterns import leading_to, product, read_only_by, view, widening


@dataclass(eq=False)
class Unit:
    """Nodes to be carried out together, views left out; tiles run over the first `rows` dims of `anchor`, if any."""

    nodes: list[Node]
    anchor: Value | None = None
    rows: int = 0

    @property
    def is_fused(self) -> bool:
        """Whether it has tiles to share among nodes."""
        return self.anchor is not None

    @property
    def is_forward(self) -> bool:
        """Whether it belongs to the forward pass."""
        return is_forward(self.nodes[0])

    @property
    def inner(self) -> list[Node]:
        """The nodes that make values of the anchor's dims, in whatever order: what products keep between them."""
        if self.anchor is None:
            return []
        dims = Counter(self.anchor.shape)
        return [node for node in self.nodes if Counter(node.outputs[0].shape) == dims]


def is_forward(node: Node) -> bool:
    """Whether a node belongs to the forward pass; no other may join it there, to be held until it is needed."""
    return node.meta.phase == FORWARD


#: Views in a row that who reads the last of them looks through, each of whom then holds them all. Models have three.
_MOST_VIEWS = 16


class Flow:
    """A graph as its non-view nodes see it: who reads whose values, through views.

    A cast to more bits for products alone counts as a view: each has its own, of the part that it is about to multiply,
    so that what is stored in 16 bits is nowhere whole in more.
    Of very many views in a row one now and then counts as any other node: what it makes is stored.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._looked_through = view | (widening & read_only_by(graph, leading_to(graph, product)))
        self.nodes: list[Node] = []
        self._views: dict[Value, tuple[Node, ...]] = dict.fromkeys(graph.arguments, ())
        self._readers: dict[Value, list[Node]] = {}
        self._sources: dict[Node, dict[Node, None]] = {}
        for node in graph.nodes:
            self._add(node)
        self.index = {node: i for i, node in enumerate(self.nodes)}

    def _add(self, node: Node) -> None:
        if self._looked_through(node) and len(views := self._views[node.inputs[0]]) < _MOST_VIEWS:
            self._views[node.outputs[0]] = (*views, node)
            return
        self.nodes.append(node)
        sources: dict[Node, None] = {}
        for value in node.inputs:
            for each in self.chain(value):
                self._readers.setdefault(each, []).append(node)
            maker = self.graph.producers.get(self.root(value))
            if maker is not None:
                sources[maker] = None
        self._sources[node] = sources
        for value in node.outputs:
            self._views[value] = ()

    def views(self, value: Value) -> tuple[Node, ...]:
        """The view nodes between `root(value)` and `value`."""
        return self._views[value]

    def root(self, value: Value) -> Value:
        """The value that no view made, of which `value` is a view."""
        views = self._views[value]
        return views[0].inputs[0] if views else value

    def chain(self, value: Value) -> list[Value]:
        """From a value that no view made to `value`, view by view."""
        return [self.root(value), *(node.outputs[0] for node in self._views[value])]

    def readers(self, value: Value) -> Sequence[Node]:
        """The non-view nodes that read `value` or a view of it, in order."""
        return self._readers.get(value, ())

    def sources(self, node: Node) -> Iterable[Node]:
        """The non-view nodes whose values `node` reads."""
        return self._sources[node]

    def with_views(self, nodes: Iterable[Node]) -> list[Node]:
        """`nodes` with the views through which they read, each before who reads it."""
        found: dict[Node, None] = {}
        for node in nodes:
            for value in node.inputs:
                found.update(dict.fromkeys(self._views[value]))
            found[node] = None
        return list(found)


def in_order(units: Sequence[Unit], flow: Flow) -> list[Unit] | None:
    """The units in an order in which each reads only what is there; None if there is none.

    It is as near to the graph's as can be, so that who reads a value comes soon after who makes it, but new content
    is made as soon as nobody reads the old any more: a gradient then dies where it was made.
    """
    home = {node: position for position, unit in enumerate(units) for node in unit.nodes}
    before = [{home[s] for node in unit.nodes for s in flow.sources(node)} - {i} for i, unit in enumerate(units)]
    after: list[list[int]] = [[] for _ in units]
    for position, sources in enumerate(before):
        for source in sources:
            after[source].append(position)
    place = _places(units, before, home, flow)
    waiting = list(map(len, before))
    ready = [(place[i], i) for i, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    ordered: list[Unit] = []
    while ready:
        _, position = heapq.heappop(ready)
        ordered.append(units[position])
        for other in after[position]:
            waiting[other] -= 1
            if not waiting[other]:
                heapq.heappush(ready, (place[other], other))
    return ordered if len(ordered) == len(units) else None


def _places(
    units: Sequence[Unit], before: Sequence[set[int]], home: dict[Node, int], flow: Flow
) -> list[tuple[int, int]]:
    """What each unit is sorted by: its last node, for what waits for much shall not hold up what comes between.

    A unit that updates is due right after the last of the gradients and of others that read the old content, and so
    is what it needs beside, the learning rate.
    """
    place = [(max(flow.index[node] for node in unit.nodes), 0) for unit in units]
    for position, unit in enumerate(units):
        old = [value for node in unit.nodes for value, _ in node.updates]
        if not old:
            continue
        gradients = {source for source in before[position] if units[source].nodes[-1].meta.phase != UPDATE}
        readers = {home[reader] for value in old for reader in flow.readers(value)} - {position}
        due = max((place[other][0] for other in gradients | readers), default=place[position][0])
        needed = [(position, (due, 1))]
        while needed:
            at, latest = needed.pop()
            if latest < place[at]:
                place[at] = latest
                needed.extend((source, (due, 0)) for source in before[at])
    return place
