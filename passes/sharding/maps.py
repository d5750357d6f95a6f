"""Maps: what a product makes of what, by which a plan speaks of parameters that anybody may have named.

    N_H -> D     W_O, and AO • W_O: the product sums over N_H·D_h, heads and their width, and makes D of it
    D -> V       the head's matrix, and the logits

W_Q [D, D] and W_O [D, D] have the same shape, and a file may hold either with its rows for columns; what differs is
which of the two dims the product sums over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from graphir.ir.analysis import contracted
from graphir.ir.graph import FORWARD, Node
from graphir.ir.value import Value
from graphir.passes.patterns import cast, product, view
from graphir.passes.sharding.logical import LogicalDims

ARROW = "->"


def maps_of(nodes: Iterable[Node], parameters: Collection[Value], logical: LogicalDims) -> dict[Value, list[str]]:
    """The maps that parameters are where products read them, as views or casts, too; and what these products make."""
    root = {value: value for value in parameters}
    found: dict[Value, dict[str, None]] = {}
    for node in nodes:
        if node.meta.phase != FORWARD:
            continue
        if (view(node) or cast(node)) and node.inputs[0] in root:
            root[node.outputs[0]] = root[node.inputs[0]]
        elif product(node):
            for position, value in enumerate(node.inputs):
                if value in root:
                    named = dict.fromkeys(_maps(node, position, logical))
                    for each in (root[value], *node.outputs):
                        found.setdefault(each, {}).update(named)
    return {value: list(named) for value, named in found.items()}


def _maps(node: Node, position: int, logical: LogicalDims) -> Iterable[str]:
    """From each dim of an operand that the node sums over to each other one."""
    summed, value = set(contracted(node)), node.inputs[position]
    sides: tuple[list[str], list[str]] = [], []
    for place, axis in enumerate(node.inference.rule.inputs[position].axes):
        names = {str(reading[0]).removesuffix("_pad") for reading in logical.readings(value, place)}
        sides[summed.isdisjoint(axis.factors)].extend(sorted(names))
    return (f"{old} {ARROW} {new}" for old in sides[0] for new in sides[1])
