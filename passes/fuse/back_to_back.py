"""Back-to-back products: two batched ones with what lies between, attention's core, made and used up tile by tile.

Q • Kᵀ makes [B, N_H, S, S] out of [B, N_H, S, D_h]; scale, mask, softmax and dropout keep that shape; • V takes it
back. A product that makes such a value, one that takes it back and all between are one unit. Backward is another:
dA_out • Vᵀ makes the shape, and dQ, dK, dV are what takes it back.
"""

from __future__ import annotations

from collections import Counter

from graphir.ir.graph import Node
from graphir.ir.tiling import most_rows
from graphir.ir.value import Value
from graphir.passes.fuse.units import Flow, Unit
from graphir.passes.patterns import Pattern, collective, product, single


def find_back_to_back(flow: Flow) -> list[Unit]:
    """The back-to-back products of a graph, each of one phase; none shares a node with another."""
    #: For each node that is found, the product that its unit begins with.
    first: dict[Node, Node] = {}
    found: dict[Node, set[Node]] = {}
    for node in filter(_batched, flow.nodes):
        members = _Search(node, flow).run()
        joined = {first[member]: None for member in sorted(members & first.keys(), key=flow.index.__getitem__)}
        for other in joined:
            members |= found.pop(other)
        if members:
            start = next(iter(joined), node)
            found[start] = members
            first.update(dict.fromkeys(members, start))
    units = [_tiled(sorted(members, key=flow.index.__getitem__), start, flow) for start, members in found.items()]
    return [unit for unit in units if unit is not None]


def _shared_factors(node: Node) -> set[str]:
    """The factors of the result that every operand has, too."""
    rule = node.inference.rule
    return set(rule.outputs[0].factors).intersection(*(operand.factors for operand in rule.inputs))


#: A product of which every operand has a part for each index of some factor.
_batched = single & product & Pattern(_shared_factors)
_passes_on = ~(product | collective)


class _Search:
    """Walks from a contraction's result to those that take it back, and to what is made along with it."""

    def __init__(self, first: Node, flow: Flow) -> None:
        self.flow, self.phase = flow, first.meta.phase
        self.dims = Counter(first.outputs[0].shape)
        self.members = {first}
        self.frontier = [first.outputs[0]]

    def run(self) -> set[Node]:
        """The unit's nodes; none if nothing takes the value back."""
        taken_back = False
        seen = set[Value]()
        while self.frontier:
            large = self.frontier.pop()
            if large in seen:
                continue
            seen.add(large)
            for reader in self.flow.readers(large):
                if reader in self.members or reader.meta.phase != self.phase:
                    continue
                if self._takes_back(reader):
                    self.members.add(reader)
                    taken_back = True
                elif _passes_on(reader) and self._is_large(reader.outputs[0]):
                    self._take(reader)
        return self.members if taken_back else set()

    def _take(self, node: Node) -> None:
        """Takes in a node that passes large values on, with those that make what else it reads."""
        self.members.add(node)
        self.frontier.extend(filter(self._is_large, node.outputs))
        for value in filter(self._is_large, map(self.flow.root, node.inputs)):
            maker = self.flow.graph.producers.get(value)
            if maker is None or maker in self.members:
                continue
            if maker.meta.phase != self.phase:
                # Stored by another phase; who else takes it, or what came with it, back may as well do it now.
                self.frontier.extend(filter(self._is_large, maker.outputs))
            elif _passes_on(maker):
                # Made along with the rest: a dropout mask.
                self._take(maker)

    def _is_large(self, value: Value) -> bool:
        return Counter(value.shape) == self.dims

    def _takes_back(self, node: Node) -> bool:
        return _batched(node) and not self._is_large(node.outputs[0])


def _tiled(nodes: list[Node], start: Node, flow: Flow) -> Unit | None:
    """The nodes as a unit with as many loops as their rules allow; None if they cannot be carried out together."""
    anchor = start.outputs[0]
    rows = most_rows(flow.with_views(nodes), anchor, len(anchor.shape) - 1)
    return Unit(nodes, anchor, rows) if rows and _is_convex(nodes, flow) else None


def _is_convex(nodes: list[Node], flow: Flow) -> bool:
    """Whether nothing that is made of the nodes' values outside goes back into one of them."""
    inside = set(nodes)
    last = max(flow.index[node] for node in nodes)
    seen: set[Node] = set()
    frontier = list(nodes)
    while frontier:
        node = frontier.pop()
        for reader in (reader for value in node.outputs for reader in flow.readers(value)):
            if reader in inside:
                if node not in inside:
                    return False
            elif reader not in seen and flow.index[reader] < last:
                seen.add(reader)
                frontier.append(reader)
    return True
