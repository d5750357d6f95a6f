"""Chains: elementwise, row-wise and reducing nodes that share rows, computed tile of rows by tile of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphir.ir.graph import Node
from graphir.ir.tiling import leading_rows, most_rows
from graphir.ir.value import Value
from graphir.passes.fuse.precedence import Precedence
from graphir.passes.fuse.units import Flow, Unit, in_order, is_forward
from graphir.passes.patterns import collective, product, reading, view

#: Nodes of a chain, views left out. Models have half as many; with each node that joins, rows are looked for among all
#: that are there.
_LONGEST = 64
_may_chain = reading & ~(product | collective | view)


def find_chains(flow: Flow, found: Sequence[Unit]) -> list[Unit]:
    """All of the graph's units, in order: those that are `found` already, chains, and nodes that stay alone."""
    chains = _Chains(flow)
    for unit in _found_and_alone(flow, found):
        chains.add(unit)
    ordered = in_order(chains.units(), flow)
    assert ordered is not None, "units are joined only where no cycle comes of it"
    return ordered


def _found_and_alone(flow: Flow, found: Sequence[Unit]) -> list[Unit]:
    """Those found and the nodes of none, in order; of units that would have to wait for each other, the first."""
    taken = {node for unit in found for node in unit.nodes}
    alone = [Unit([node]) for node in flow.nodes if node not in taken]
    ordered = in_order([*found, *alone], flow)
    return _found_and_alone(flow, found[:-1]) if ordered is None else ordered


class _Chains:
    """Units in the order of arrival, each new node joining a chain where no cycle comes of it."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._units: dict[int, Unit] = {}
        self._precedence = Precedence()
        #: The units that a node may join; products, and those back to back, stay as they are.
        self._chains: set[int] = set()
        self._home: dict[Node, int] = {}
        #: The node that last read a value: one that reads the same may join its chain.
        self._reader: dict[Value, Node] = {}

    def units(self) -> list[Unit]:
        return list(self._units.values())

    def add(self, unit: Unit) -> None:
        """Takes in a unit whose sources are all here: as it is if it is fused, a node into a chain if it fits one."""
        sources = self._sources(unit.nodes)
        joined = None if unit.is_fused else self._join(unit.nodes[0], sources)
        home = self._begin(unit, sources) if joined is None else joined
        self._home.update(dict.fromkeys(unit.nodes, home))
        if joined is not None:
            for other in sorted(sources - {home}):
                self._swallow(home, other)
        for node in filter(_may_chain, unit.nodes):
            self._reader.update((value, node) for value in self._rows_read(node))

    def _begin(self, unit: Unit, sources: set[int]) -> int:
        """A new group for `unit`; a node that has rows begins a chain that others can join."""
        group = self._precedence.add(sources)
        self._units[group] = unit
        if not unit.is_fused and _may_chain(unit.nodes[0]):
            anchor, limit = leading_rows(unit.nodes[0])
            rows = most_rows(self.flow.with_views(unit.nodes), anchor, limit)
            # Columns that a view has merged with a row's dim stay whole, but not those of a vector.
            if rows >= min(limit, max(len(anchor.shape) - 1, 1)) > 0:
                unit.anchor, unit.rows = anchor, rows
                self._chains.add(group)
        return group

    def _join(self, node: Node, sources: set[int]) -> int | None:
        """The chain that `node` has joined, if there is one that it can."""
        anchor, limit = leading_rows(node)
        if not limit or not _may_chain(node):
            return None
        siblings = {self._home[self._reader[value]] for value in self._rows_read(node) if value in self._reader}
        for group in (*sorted(sources, reverse=True), *sorted(siblings - sources, reverse=True)):
            others = sources - {group}
            if group not in self._chains or any(self._precedence.is_before(group, other) for other in others):
                continue
            if self._extend(self._units[group], node, anchor, limit):
                self._precedence.put_after(group, others)
                return group
        return None

    def _extend(self, unit: Unit, node: Node, anchor: Value, limit: int) -> bool:
        """Whether `node` could be added to the chain `unit`, with as many loops as both have."""
        assert unit.anchor is not None
        if is_forward(node) != unit.is_forward or len(unit.nodes) >= _LONGEST:
            return False
        wider = anchor if len(anchor.shape) > len(unit.anchor.shape) else unit.anchor
        rows = most_rows(self.flow.with_views([*unit.nodes, node]), wider, min(unit.rows, limit))
        # A chain that would lose loops that its nodes could share is better left as it is.
        if not rows or (rows < unit.rows and len(unit.anchor.shape) == rows + 1 < len(anchor.shape)):
            return False
        unit.nodes.append(node)
        unit.anchor, unit.rows = wider, rows
        return True

    def _swallow(self, group: int, other: int) -> None:
        """Makes the chain `other`, which a node of `group` reads, part of it, where that makes no cycle."""
        if not self._chains.issuperset((group, other)) or self._lie_apart(group, other):
            return
        one, two = self._units[group], self._units[other]
        if one.is_forward != two.is_forward or len(one.nodes) + len(two.nodes) > _LONGEST:
            return
        assert one.anchor is not None
        nodes = sorted([*one.nodes, *two.nodes], key=self.flow.index.__getitem__)
        rows = most_rows(self.flow.with_views(nodes), one.anchor, min(one.rows, two.rows))
        if rows:
            one.nodes, one.rows = nodes, rows
            self._home.update(dict.fromkeys(two.nodes, group))
            self._precedence.merge(group, other)
            self._chains.remove(other)
            del self._units[other]

    def _lie_apart(self, group: int, other: int) -> bool:
        """Whether a third unit must come between the two."""
        ends = {group, other}
        between = (self._sources(self._units[end].nodes) - ends for end in ends)
        return any(self._precedence.is_before(end, each) for each in set().union(*between) for end in ends)

    def _sources(self, nodes: Iterable[Node]) -> set[int]:
        """The units that make what `nodes` read, as far as they are here."""
        return {self._home[source] for node in nodes for source in self.flow.sources(node) if source in self._home}

    def _rows_read(self, node: Node) -> list[Value]:
        """What the node reads that has rows; a vector or a scalar makes no neighbours."""
        roots = map(self.flow.root, node.inputs)
        return [value for value in roots if len(value.shape) > 1]
