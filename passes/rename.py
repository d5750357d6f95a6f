"""Giving values other names: the gradients that come back to a cast in its operand's dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph
from graphir.ir.value import Value, gradient_name


def rename(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with each value that a node makes called `names[its name]`, where that is given.

    An alias that is now the value's own name is none any more.
    """
    if not names:
        return graph
    builder = Builder(graph.name, mesh=graph.mesh)
    copies = builder.copy_arguments(graph)
    for node in graph.nodes:
        outputs = [(names.get(value.name, value.name), value.type) for value in node.outputs]
        of = None if node.meta.of is None else names.get(node.meta.of, node.meta.of)
        operands = [copies[value] for value in node.inputs]
        made = builder.declare(node.operator, operands, node.attributes, outputs, replace(node.meta, of=of))
        copies.update(zip(node.outputs, made.outputs, strict=True))
    for name, value in graph.aliases.items():
        if name != copies[value].name:
            builder.alias(f"/{name}", copies[value])
    return builder.build(*(copies[value] for value in graph.outputs))


def wide_names(forward: Graph, joint: Graph, gradients: Mapping[Value, Value]) -> dict[str, str]:
    """New names in `joint` for gradients of casts in `forward` that are those of the operands as they stand: theirs.

    The gradient of W_Q.bfloat16, added up in float32, is dW_Q. With such names go those that are made of them:
    `dV_lin.bfloat16` is dV_lin, and its own cast, which was dV_lin.bfloat16.bfloat16, is dV_lin.bfloat16.
    """
    known = {
        gradient.name: gradient_name(node.inputs[0].name)
        for node in forward.nodes
        if node.operator.retypes and (gradient := gradients.get(node.outputs[0])) is not None
        if gradient is gradients.get(node.inputs[0])
    }
    names = {name: new for name, new in known.items() if joint.aliases.get(new) is joint[name]}
    prefixes = {f"{name}.": f"{new}." for name, new in names.items()}
    for name in joint.values if names else ():
        for prefix, new in prefixes.items():
            if name.startswith(prefix):
                names[name] = f"{new}{name.removeprefix(prefix)}"
    return {name: new for name, new in names.items() if new in names or new not in joint.values}
