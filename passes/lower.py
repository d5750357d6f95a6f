"""Taking composite nodes apart, as A's figures draw them: dMatmul into T and •, CE into S → P → CE."""

from __future__ import annotations

from graphir.ir.analysis import contracted
from graphir.ir.builder import Builder
from graphir.ir.graph import Graph


def separate_products(graph: Graph) -> Graph:
    """The graph with each gradient of a product made by a node of its own: dMatmul becomes one for dX, one for dW.

    Apart they can be carried out where each is best: the one by rows, the other, a sum over rows, by its own.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in graph.nodes:
        if len(node.outputs) == 1 or "only" not in node.operator.keywords or not contracted(node):
            builder.copy_node(node, copies)
            continue
        rule = node.inference.rule
        for operand, value in zip(rule.outputs, node.outputs, strict=True):
            needed = node.operator.dependencies(rule, (operand.name,))
            pairs = zip(rule.inputs, node.inputs, strict=True)
            operands = [copies[each] for o, each in pairs if o.name in needed]
            attributes = node.operator.normalize({**node.attributes, "only": (operand.name,)})
            made = builder.declare(node.operator, operands, attributes, [(value.name, value.type)], node.meta)
            copies[value] = made.outputs[0]
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


def lower(graph: Graph) -> Graph:
    """The graph with every node whose operator declares a lowering replaced by simpler ones.

    The results keep their names; the nodes between get new ones, and say what they were lowered from.
    """
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    outputs = frozenset(graph.outputs)
    for node in graph.nodes:
        if node.operator.lower is None:
            builder.copy_node(node, copies)
            continue
        rule = node.inference.rule
        operands = {o.name: copies[value] for o, value in zip(rule.inputs, node.inputs, strict=True)}
        # A result that nobody reads (CE's log-sum-exp in a forward graph) need not be made.
        read = [bool(graph.uses[value]) or value in outputs for value in node.outputs]
        results = [(o.name, value) for o, value, kept in zip(rule.outputs, node.outputs, read, strict=True) if kept]
        names = {name: f"/{value.name}" for name, value in results}
        meta, why = node.meta, f"{node.operator.key} taken apart"
        with builder.context(scope=meta.scope, phase=meta.phase, of=meta.of, at=meta.at, why=why):
            made = node.operator.lower(operands, node.attributes, names)
        for name, value in results:
            copies[value] = made[name]
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))
