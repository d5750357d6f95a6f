"""Rounding products where they are stored: what everybody reads in 16 bits is never written in 32.

    Y = X • W                       Y = X • W  in bfloat16
    Y.T = T(Y)                      Y.T = T(Y)
    Y.T.bfloat16 = cast(Y.T)

A product of 16-bit operands is added up in 32 bits, and rounded at the end, in registers (`accumulates`): as
a cast would round it that reads the sums from memory, bit for bit.
"""

from __future__ import annotations

from graphir.ir.analysis import contracted
from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.graph import Graph, Node
from graphir.ir.types import TensorType
from graphir.ir.value import Value


@without_collector
def round_products(graph: Graph) -> Graph:
    """The graph without casts of products to their operands' dtype, where all who read a product read such a cast.

    Views between product and cast are narrow, too. Outputs of the graph keep what makes them.
    """
    narrow = _find(graph)
    if not narrow:
        return graph
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in graph.nodes:
        value = node.outputs[0]
        if node.operator.retypes and node.inputs[0] in narrow:
            copies[value] = copies[node.inputs[0]]
        elif value in narrow:
            attributes = dict(node.attributes)
            if node.operator.accumulates is not None:
                attributes[node.operator.accumulates] = narrow[value]
            type_ = TensorType(narrow[value], value.shape, value.type.layout)
            operands = [copies[each] for each in node.inputs]
            made = builder.declare(
                node.operator, operands, node.operator.normalize(attributes), [(value.name, type_)], node.meta
            )
            copies[value] = made.outputs[0]
        else:
            builder.copy_node(node, copies)
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


def _find(graph: Graph) -> dict[Value, str]:
    """The products to be rounded, and the views of them, with their dtype then."""
    found: dict[Value, str] = {}
    for node in graph.nodes:
        if node.operator.accumulates is not None and len(node.outputs) == 1 and contracted(node):
            (Y,) = node.outputs
            (dtype, *others) = {value.dtype for value in node.inputs}
            views = None if others or dtype == Y.dtype else _read_as(Y, dtype, graph)
            if views is not None:
                found.update(dict.fromkeys((Y, *views), dtype))
    return found


def _read_as(value: Value, dtype: str, graph: Graph) -> list[Value] | None:
    """The views by way of which all readers of `value` read it in `dtype`; None if one does not, or nobody reads it."""
    readers: list[Node] = [reader for reader, _ in graph.uses[value]]
    if not readers or value in graph.outputs:
        return None
    views = []
    for reader in readers:
        (result, *others) = reader.outputs
        if reader.operator.retypes:
            if result.dtype != dtype or result in graph.outputs:
                return None
        elif reader.operator.view and not others:
            inner = _read_as(result, dtype, graph)
            if inner is None:
                return None
            views += [result, *inner]
        else:
            return None
    return views
