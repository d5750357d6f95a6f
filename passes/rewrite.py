"""Rewriting: one walk over a graph that builds another, of which a pass says only what it changes.

    class _Doubles(Rewriter):                                   H = scale(X) {by=2.0}       H = add(X, X)
        def visit(self, node):                                  Y = exp(H)                  Y = exp(H)
            X, *_ = self.operands(node)
            return self.replace(node, add, [X, X]) if is_double(node) else None

    _Doubles(graph).run()

All that a pass does not speak of is carried over here, once for all of them: arguments, nodes with their names,
attributes, scopes, phases, lines and reasons, the aliases of what is still there, outputs, the mesh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph, Node
from graphir.ir.operator import Operator
from graphir.ir.types import TensorType
from graphir.ir.value import Value


class Rewriter:
    """Walks over the nodes of a graph, and builds the one in which each is what `visit` makes of it."""

    def __init__(self, graph: Graph, instead: Mapping[Value, tuple[str, TensorType]] | None = None) -> None:
        """`instead` gives arguments another name and type."""
        self.graph = graph
        self.builder = Builder(graph.name, mesh=graph.mesh)
        #: What each value of the graph is in the new one.
        self.new: dict[Value, Value] = self.builder.copy_arguments(graph, instead or {})

    def visit(self, node: Node) -> Sequence[Value | None] | None:
        """What takes the place of the node's results, one for each of them; None for a node that stays as it is.

        A result in whose place there is None is gone: nobody may read it any more.
        """
        return None

    @without_collector
    def run(self, nodes: Iterable[Node] | None = None, outputs: Iterable[Value] | None = None) -> Graph:
        """The new graph: of `nodes`, in their order, with these values of the old graph as `outputs`; else of all."""
        for node in self.graph.nodes if nodes is None else nodes:
            made = self.visit(node)
            if made is None:
                self.builder.copy_node(node, self.new)
            else:
                pairs = zip(node.outputs, made, strict=True)
                self.new.update({value: new for value, new in pairs if new is not None})
        return self.build(outputs)

    def build(self, outputs: Iterable[Value] | None = None) -> Graph:
        """The new graph, of the nodes that are there; for passes that walk in a way of their own."""
        self.builder.copy_aliases(self.graph, self.new)
        return self.builder.build(*[self.new[value] for value in (self.graph.outputs if outputs is None else outputs)])

    # -- what `visit` makes its results with ----------------------------------------------------------

    def operands(self, node: Node) -> list[Value]:
        """The node's operands in the new graph."""
        return [self.new[value] for value in node.inputs]

    def named_operands(self, node: Node) -> dict[str, Value]:
        """The node's operands in the new graph, by their names in its signature."""
        return dict(zip((operand.name for operand in node.inference.rule.inputs), self.operands(node), strict=True))

    def copy(self, node: Node, operands: Iterable[Value]) -> tuple[Value, ...]:
        """The results of a copy of the node that reads other operands, of the same types."""
        return self.builder.copy_node(node, self.new, operands).outputs

    def replace(
        self,
        node: Node,
        operator: Operator,
        operands: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        results: Sequence[Value] | None = None,
        names: Sequence[str] | None = None,
    ) -> tuple[Value, ...]:
        """The results of a node of `operator` in the node's place, with its meta.

        They stand for `results`, all of the node's if that is not given, and bear their names unless there are other
        `names`; what it makes beyond is called after the first and its role, `P.max`.
        """
        written = operator.normalize(attributes or {})
        rule, _, types = operator.infer(tuple([value.type for value in operands]), written)
        old = node.outputs if results is None else results
        full = [value.name for value in old] if names is None else list(names)
        full += [self.builder.free_name(f"{full[0]}.{result.name}") for result in rule.outputs[len(full) :]]
        kept = [_spelled(type_, value.type) for type_, value in zip(types, old, strict=False)]
        outputs = zip(full, (*kept, *types[len(kept) :]), strict=True)
        return self.builder.declare(operator, operands, written, outputs, node.meta).outputs

    def beside(
        self, node: Node, why: str, scope: str | None = None, phase: str | None = None, of: str | None = None
    ) -> AbstractContextManager[None]:
        """Nodes that are made inside are there because of the node, and stand where it does unless that is given."""
        meta = node.meta
        scope = meta.scope if scope is None else scope
        return self.builder.context(scope, phase or meta.phase, of or meta.of, why, meta.at)


def _spelled(type: TensorType, like: TensorType) -> TensorType:
    """`type` with dims written as `like` has them: of D_h and D/N_H, which are equal, the one that was there stays."""
    if type == like:
        return like
    return TensorType(type.dtype, like.shape, type.layout) if type.shape == like.shape else type
