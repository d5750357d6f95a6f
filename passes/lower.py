"""Taking composite nodes apart: dMatmul into T and •, as A's backward figures draw it."""

from __future__ import annotations

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph


def lower(graph: Graph) -> Graph:
    """The graph with every node whose operator declares a lowering replaced by simpler ones.

    The results keep their names; the nodes between get new ones, and say what they were lowered from.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in graph.nodes:
        if node.operator.lower is None:
            builder.copy_node(node, copies)
            continue
        rule = node.inference.rule
        operands = {o.name: copies[value] for o, value in zip(rule.inputs, node.inputs, strict=True)}
        names = {o.name: f"/{value.name}" for o, value in zip(rule.outputs, node.outputs, strict=True)}
        meta, why = node.meta, f"{node.operator.key} taken apart"
        with builder.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=why):
            made = node.operator.lower(operands, node.attributes, names)
        for operand, value in zip(rule.outputs, node.outputs, strict=True):
            copies[value] = made[operand.name]
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))
