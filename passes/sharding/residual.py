"""The residual stream: what blocks read, and what they add their results to.

    X_mid = X + MHA(LN(X)): X and X_mid are of it

A sum is of the stream if one of its terms is made of another by way of a contraction, a product above all: X + W•f(X).
So it is found whatever the order of norms, and whatever the values are called; a bias that is added, or x + x³ within
an activation, is not taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphir.ir.analysis import contracted
from graphir.ir.graph import FORWARD, Node
from graphir.ir.value import Value


def residual_stream(nodes: Sequence[Node]) -> dict[Value, None]:
    """The values of the stream, in their order: what the first sum adds to, and all sums."""
    made = {value: position for position, node in enumerate(nodes) for value in node.outputs}
    found: dict[Value, None] = {}
    for node in nodes:
        if node.meta.phase == FORWARD and node.operator.associative and node.outputs[0].shape:
            for value in node.inputs:
                if any(_leads_to(value, other, nodes, made) for other in node.inputs if other is not value):
                    found |= dict.fromkeys((value, *node.outputs))
    return found


def _leads_to(value: Value, result: Value, nodes: Sequence[Node], made: Mapping[Value, int]) -> bool:
    """Whether `result` is made of `value` by way of a contraction."""
    earliest = made.get(value, -1)
    waiting, seen = [(result, False)], {(result, False)}
    while waiting:
        each, by_contraction = waiting.pop()
        position = made.get(each, -1)
        # What was made before `value`, and is no argument as it is, is not made of it.
        if position <= earliest:
            continue
        node = nodes[position]
        through = by_contraction or bool(contracted(node))
        if through and value in node.inputs:
            return True
        for operand in node.inputs:
            if (operand, through) not in seen:
                seen.add((operand, through))
                waiting.append((operand, through))
    return False
