"""FLOPs that a causal mask makes needless: those of scores [.., q, k] with k > q, and of what is made of them alone."""

from __future__ import annotations

from fractions import Fraction

from graphir.cost.compute import alike, node_flops, plain_nodes
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value


def spared_flops(graph: Graph, sizes: Sizes) -> int:
    """The FLOPs, of those that are counted, that lie beyond the diagonal of causal attention.

    A node computes with scores if it reads or makes a value of their shape that is connected with the masked ones by
    nodes that keep that shape; (S − 1)/2S of its points lie beyond the diagonal.
    """
    nodes = list(plain_nodes(graph))
    scores = _scores(nodes)
    touching = [node for node in nodes if not scores.isdisjoint((*node.inputs, *node.outputs))]
    total = Fraction(0)
    for node, times in alike(touching):
        keys = next(value for value in (*node.inputs, *node.outputs) if value in scores).shape[-1].size(sizes)
        total += node_flops(node).number(sizes) * times * Fraction(keys - 1, 2 * keys)
    return int(total)


def _scores(nodes: list[Node]) -> set[Value]:
    """What is masked by a causal operator, and what is made of it, or it is made of, in the same shape."""
    found: set[Value] = set()
    for node in nodes:
        causal = node.operator.causal
        if causal is not None and causal(node.attributes):
            found |= {node.inputs[0], *(value for value in node.outputs if value.shape == node.inputs[0].shape)}
    size = -1
    while size != len(found):
        size = len(found)
        for node in nodes:
            values = (*node.inputs, *node.outputs)
            shapes = {value.shape for value in values if value in found}
            if shapes:
                found |= {value for value in values if value.shape in shapes and value.type.rank > 1}
    return found
