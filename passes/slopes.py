"""Keeping slopes: an activation's derivative made where the activation is, in place of its operand being kept."""

from __future__ import annotations

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.operators import multiply


def keep_slopes(graph: Graph) -> Graph:
    """The graph with activations that make their slope as well, and their d-nodes as products with it.

    GELU and its derivative share a tanh, which is most of what they cost; what is kept for the backward pass is as
    large as before. An operator declares that it can (`sloped`); one whose d-node reads something else, because the
    operand is recomputed, stays as it is.
    """
    gradients: dict[tuple[object, ...], Node] = {}
    for node in graph.nodes:
        forward = node.operator.d_operator_of
        if forward is not None and forward.with_slope is not None:
            gradients[(forward, node.inputs[0], node.attributes)] = node
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    slopes: dict[Node, Value] = {}
    for node in graph.nodes:
        sloped = node.operator.with_slope
        gradient = gradients.get((node.operator, node.inputs[0], node.attributes)) if sloped and node.inputs else None
        if sloped is not None and gradient is not None and gradient not in slopes:
            (Y,), X = node.outputs, copies[node.inputs[0]]
            outputs = [(Y.name, Y.type), (builder.free_name(f"{Y.name}.slope"), Y.type)]
            made = builder.declare(sloped, [X], sloped.normalize(node.attributes), outputs, node.meta)
            copies[Y], slopes[gradient] = made.outputs
        elif node in slopes:
            (dX,), dY = node.outputs, copies[node.inputs[1]]
            made = builder.declare(
                multiply, [slopes[node], dY], multiply.normalize({}), [(dX.name, dX.type)], node.meta
            )
            copies[dX] = made.outputs[0]
        else:
            builder.copy_node(node, copies)
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))
