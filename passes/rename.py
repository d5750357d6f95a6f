"""Giving values other names: the gradients that come back to a cast in its operand's dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value, gradient_name
from graphir.passes.patterns import cast
from graphir.passes.rewrite import Rewriter


def rename(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with each value that a node makes called `names[its name]`, where that is given.

        dW.bfloat16 = matmul(X.T, dY)          dW = matmul(X.T, dY)

    An alias that is now the value's own name is none any more.
    """
    return _Rename(graph, names).run() if names else graph


class _Rename(Rewriter):
    def __init__(self, graph: Graph, names: Mapping[str, str]) -> None:
        super().__init__(graph)
        self.names = names

    def visit(self, node: Node) -> Sequence[Value]:
        outputs = [(self.names.get(value.name, value.name), value.type) for value in node.outputs]
        of = None if node.meta.of is None else self.names.get(node.meta.of, node.meta.of)
        meta = replace(node.meta, of=of)
        return self.builder.declare(node.operator, self.operands(node), node.attributes, outputs, meta).outputs


def wide_names(forward: Graph, joint: Graph, gradients: Mapping[Value, Value]) -> dict[str, str]:
    """New names in `joint` for gradients of casts in `forward` that are those of the operands as they stand: theirs.

    The gradient of W_Q.bfloat16, added up in float32, is dW_Q. With such names go those that are made of them:
    `dV_lin.bfloat16` is dV_lin, and its own cast, which was dV_lin.bfloat16.bfloat16, is dV_lin.bfloat16.
    """
    known = {
        gradient.name: gradient_name(node.inputs[0].name)
        for node in forward.nodes
        if cast(node) and (gradient := gradients.get(node.outputs[0])) is not None
        if gradient is gradients.get(node.inputs[0])
    }
    names = {name: new for name, new in known.items() if joint.aliases.get(new) is joint[name]}
    prefixes = {f"{name}.": f"{new}." for name, new in names.items()}
    for name in joint.values if names else ():
        for prefix, new in prefixes.items():
            if name.startswith(prefix):
                names[name] = f"{new}{name.removeprefix(prefix)}"
    return {name: new for name, new in names.items() if new in names or new not in joint.values}
