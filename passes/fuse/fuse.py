"""The pass itself: from units to fused nodes, views folded into those who read or make what they rearrange."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.attributes import Attributes
from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.fused import fused
from graphir.ir.graph import Graph, Meta, Node
from graphir.ir.value import Value
from graphir.passes.fuse.back_to_back import find_back_to_back
from graphir.passes.fuse.chains import find_chains
from graphir.passes.fuse.stored import Stored
from graphir.passes.fuse.unfuse import unfuse
from graphir.passes.fuse.units import Flow, Unit
from graphir.passes.patterns import collective
from graphir.passes.rewrite import Rewriter


@without_collector
def fuse(graph: Graph) -> Graph:
    """The graph with back-to-back products, chains and views fused; values that leave a fused node keep their names.

        Z = matmul(Q, K.T)                     O = fused(Q, K.T, V) {anchor="Z", rows=2}
        P = S(Z)                                 Z = matmul(Q, K.T)
        O = matmul(P, V)                         P = S(Z)
                                                 O = matmul(P, V)

    That scores are used up tile by tile, and never stored, is due to FlashAttention (Dao et al., 2022).
    A node with several products, dMatmul, fuses better taken apart: see `separate_products`. Nodes that are fused
    already are unfolded first.
    """
    plain = unfuse(graph)
    flow = Flow(plain)
    return _Rebuild(flow).join(find_chains(flow, find_back_to_back(flow)))


class _Rebuild(Rewriter):
    """Walks over units in place of nodes."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.graph)
        self.flow, self.stored = flow, Stored(flow)
        #: The values of which a view, or which themselves, are outputs.
        self.returned = {flow.root(value) for value in self.graph.outputs}

    def join(self, units: Sequence[Unit]) -> Graph:
        """The graph with a node for each unit."""
        for unit in units:
            if collective(unit.nodes[0]):
                self._copy_collective(unit.nodes[0])
            else:
                self._emit(unit)
        for value in self.graph.outputs:
            self._copy_views(value)
        return self.build()

    def _copy_collective(self, node: Node) -> None:
        """A collective stays a node by itself: it is where ranks meet."""
        for value in node.inputs:
            self._copy_views(value)
        self.builder.copy_node(node, self.new)

    def _copy_views(self, value: Value) -> None:
        """The views that make `value` of what is stored, as nodes of their own, where they are not there yet."""
        for view in self.stored.views_to(value):
            if view.outputs[0] not in self.new:
                self.builder.copy_node(view, self.new)

    def _emit(self, unit: Unit) -> None:
        """The unit as a fused node, or as the node that it is."""
        leaving = self._leaving(unit)
        nodes = self._with_views(unit, leaving)
        if len(nodes) == 1:
            self.builder.copy_node(nodes[0], self.new)
            return
        made = {value for node in nodes for value in node.outputs}
        entering = [v for v in dict.fromkeys(v for node in nodes for v in node.inputs) if v not in made]
        body = _body(nodes, entering, leaving, self.graph)
        anchor = "" if unit.anchor is None else unit.anchor.name
        attributes = Attributes({"body": body, "anchor": anchor, "rows": unit.rows})
        outputs = [(value.name, value.type) for value in leaving]
        node = self.builder.declare(fused, [self.new[v] for v in entering], attributes, outputs, _meta(unit))
        self.new.update(zip(leaving, node.outputs, strict=True))

    def _leaving(self, unit: Unit) -> list[Value]:
        """What is stored of the unit's values because others, or the caller, read it; of dead code its last result."""
        inside = set(unit.nodes)
        leaving = [
            self.stored[value]
            for node in unit.nodes
            for value in node.outputs
            if value in self.returned or not inside.issuperset(self.flow.readers(value))
        ]
        return leaving or [unit.nodes[-1].outputs[0]]

    def _with_views(self, unit: Unit, leaving: Sequence[Value]) -> list[Node]:
        """The unit's nodes with the views that they read through and those that make what leaves, in order."""
        nodes: dict[Node, None] = {}
        made: set[Value] = set()
        for node in unit.nodes:
            for value in node.inputs:
                inside = self.flow.root(value) in made
                nodes.update(dict.fromkeys(self.flow.views(value) if inside else self.stored.views_to(value)))
            nodes[node] = None
            made.update(node.outputs)
        for value in leaving:
            nodes.update(dict.fromkeys(self.flow.views(value)))
        return list(nodes)


def _body(nodes: Sequence[Node], entering: Sequence[Value], leaving: Sequence[Value], graph: Graph) -> Graph:
    """The nodes as a graph from what enters to what leaves."""
    body = Builder("body", mesh=graph.mesh)
    copies = {value: body.input(f"/{value.name}", value.shape, value.dtype, value.type.layout) for value in entering}
    for node in nodes:
        body.copy_node(node, copies)
    return body.build(*(copies[value] for value in leaving))


def _meta(unit: Unit) -> Meta:
    """Where a fused node belongs: with the node that its tiles are measured by, in the phase of its last."""
    inner = next((node for node in unit.nodes if unit.anchor in node.outputs), unit.nodes[0]).meta
    symbols = ", ".join(dict.fromkeys(node.operator.symbol for node in unit.nodes))
    return Meta(inner.scope, unit.nodes[-1].meta.phase, inner.at, inner.of, f"fused: {symbols}")
