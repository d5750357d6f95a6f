"""Recomputation in place of storage."""

from __future__ import annotations

from graphir.ir.builder import Builder
from graphir.ir.graph import BACKWARD, FORWARD, Graph
from graphir.ir.value import Value


def recompute_masks(graph: Graph) -> Graph:
    """The graph with cached outputs that their operator can make again (dropout's mask m) made again where
    the backward pass reads them, so that nothing holds them from the forward to the backward pass.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    again: dict[Value, Value] = {}
    for node in graph.nodes:
        replaced: dict[Value, Value] = {}
        if node.meta.phase == BACKWARD:
            for value in node.inputs:
                made = again.get(value) or _make_again(graph, value, builder, copies)
                if made is not None:
                    again[value], replaced[value] = made, copies[value]
                    copies[value] = made
        builder.copy_node(node, copies)
        copies.update(replaced)
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


def _make_again(graph: Graph, value: Value, builder: Builder, copies: dict[Value, Value]) -> Value | None:
    node = graph.producers.get(value)
    if node is None or node.meta.phase != FORWARD or not node.operator.recomputations:
        return None
    rule = node.inference.rule
    output = next(o.name for o, each in zip(rule.outputs, node.outputs, strict=True) if each is value)
    recomputation = node.operator.recomputations.get(output)
    if recomputation is None:
        return None
    operands = {o.name: copies[each] for o, each in zip(rule.inputs, node.inputs, strict=True)}
    name = builder.free_name(f"{value.name}.again")
    why = f"recomputed, so that {value.name} need not be stored"
    with builder.context(scope=node.meta.scope, phase=BACKWARD, of=node.name, at=node.meta.at, why=why):
        return recomputation(operands, node.attributes, value, f"/{name}")
