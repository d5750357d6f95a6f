"""Rounding products where they are stored: what everybody reads in 16 bits is never written in 32.

A product of 16-bit operands is added up in 32 bits, and rounded at the end, in registers (`accumulates`): as
a cast would round it that reads the sums from memory, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes.patterns import Pattern, accumulating, cast, leading_to, product, read_only_by, single, view
from graphir.passes.rewrite import Rewriter

_PRODUCT = accumulating & single & product


@without_collector
def round_products(graph: Graph) -> Graph:
    """The graph without casts of products to their operands' dtype, where all who read a product read such a cast.

        Y = matmul(X, W) {dtype="float32"}     Y = matmul(X, W) {dtype="bfloat16"}
        Y.T = T(Y)                             Y.T = T(Y)
        Z = cast(Y.T) {to="bfloat16"}

    Views between product and cast are narrow, too. Outputs of the graph keep what makes them.
    """
    narrow = _find(graph)
    return _Rounding(graph, narrow).run() if narrow else graph


class _Rounding(Rewriter):
    def __init__(self, graph: Graph, narrow: dict[Value, str]) -> None:
        super().__init__(graph)
        self.narrow = narrow

    def visit(self, node: Node) -> Sequence[Value] | None:
        if cast(node) and node.inputs[0] in self.narrow:
            return self.operands(node)
        dtype = self.narrow.get(node.outputs[0])
        if dtype is None:
            return None
        accumulated = node.operator.accumulates
        attributes = node.attributes if accumulated is None else {**node.attributes, accumulated: dtype}
        return self.replace(node, node.operator, self.operands(node), attributes)


def _find(graph: Graph) -> dict[Value, str]:
    """The products to be rounded, and the views of them, with their dtype then."""
    found: dict[Value, str] = {}
    #: By dtype: nodes whose results are read in it alone, by way of views.
    read_as: dict[str, Pattern] = {}
    for node in graph.nodes:
        if _PRODUCT(node):
            (Y,) = node.outputs
            (dtype, *others) = {value.dtype for value in node.inputs}
            if others or dtype == Y.dtype:
                continue
            if dtype not in read_as:
                read_as[dtype] = read_only_by(graph, leading_to(graph, _casts_to(dtype, graph), view & single))
            if read_as[dtype](node):
                found[Y] = dtype
        elif view(node) and node.inputs[0] in found:
            found[node.outputs[0]] = found[node.inputs[0]]
    return found


def _casts_to(dtype: str, graph: Graph) -> Pattern:
    """Casts to `dtype` that the graph does not return."""
    outputs = frozenset(graph.outputs)
    return cast & Pattern(lambda node: node.outputs[0].dtype == dtype and node.outputs[0] not in outputs)
