"""Taking composite nodes apart, as A's figures draw them: dMatmul into T and •, CE into S → P → CE."""

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
        # A result that nobody reads (CE's log-sum-exp in a forward graph) need not be made.
        read = [bool(graph.uses[value]) or value in graph.outputs for value in node.outputs]
        results = [(o.name, value) for o, value, kept in zip(rule.outputs, node.outputs, read, strict=True) if kept]
        names = {name: f"/{value.name}" for name, value in results}
        meta, why = node.meta, f"{node.operator.key} taken apart"
        with builder.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=why):
            made = node.operator.lower(operands, node.attributes, names)
        for name, value in results:
            copies[value] = made[name]
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))
