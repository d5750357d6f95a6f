"""Why is this collective here? What made its operand pending or split, what needs it otherwise, and at what price.

The *cause* of a pending sum is the node that contracted a split factor: what only moves or adds afterwards is walked
through. The *partner* is found on the gradient: what flows back through an AR is a pending sum's identity, through an
RS an AG, through an AG an RS, through a slice an AG; so the partner of a collective on X stands on dX (and of one on
dX on X), or the identity does. A collective that repeats another of the same pass or the other is that one again.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from graphir.backends.plan import require_even
from graphir.cost import CollectiveCost, Kind, axes_of, collective_cost, kind_of, mesh_sizes
from graphir.ir.dims import Sizes
from graphir.ir.graph import FORWARD, Graph, Node
from graphir.ir.value import Value, gradient_name, join

#: The collectives that start from each value, in order.
_Moved: TypeAlias = dict[Value, list[Node]]


@dataclass(frozen=True)
class Explanation:
    """One collective: where it stands, why, with whom, and what it sends."""

    node: Node
    cause: str
    need: str
    partner: str
    cost: CollectiveCost
    #: Bytes that all ranks send together, and that one rank does (the root under naive, the mean in a ring).
    total: int
    each: Fraction

    @property
    def block(self) -> str:
        """The first part of its scope: `layer0`, `embedding`, `optimizer`."""
        return self.node.meta.scope.partition("/")[0] or "top"

    @property
    def move(self) -> str:
        """`[B|dp, S, D] pending sum(tp) -> [B|dp, S, D]`."""
        before, after = self.node.inputs[0].type, self.node.outputs[0].type
        return f"{before.text.removeprefix(before.dtype)} -> {after.text.removeprefix(after.dtype)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        cost, node = self.cost, self.node
        return {
            "name": node.name,
            "operator": node.operator.key,
            "axes": list(cost.axes),
            "scope": node.meta.scope,
            "phase": node.meta.phase,
            "moves": self.move,
            "cause": self.cause,
            "need": self.need,
            "partner": self.partner,
            "payload": str(cost.payload),
            "each": {"formula": str(cost.each), "bytes": float(self.each)},
            "others": None if cost.others is None else str(cost.others),
            "total": {"formula": str(cost.total), "bytes": self.total},
            "at": node.meta.at,
            "why": node.meta.why,
        }


def explain(graph: Graph, sizes: Sizes, algorithm: str = "ring") -> tuple[Explanation, ...]:
    """Every collective of `graph`, in the order of computation.

    Errors: ConfigError for an unknown algorithm, DimError if a dim has no size, or one that its ranks do not divide.
    """
    complete = mesh_sizes(graph, sizes)
    require_even(graph, complete)
    moved: _Moved = {}
    for node in graph.nodes:
        if node.operator.relayout is not None:
            moved.setdefault(graph.origin(node.inputs[0]), []).append(node)
    # Layers repeat each other: what one collective of a kind sends, all do.
    priced: dict[Kind, tuple[CollectiveCost, int, Fraction]] = {}
    found = []
    for node in graph.nodes:
        if node.operator.relayout is not None:
            kind = kind_of(node)
            if kind not in priced:
                cost = collective_cost(node, graph.mesh, algorithm)
                priced[kind] = cost, int(cost.total.number(complete)), cost.each.number(complete)
            found.append(
                Explanation(node, _cause(graph, node), _need(graph, node), _partner(graph, node, moved), *priced[kind])
            )
    return tuple(found)


# -- cause and need ---------------------------------------------------------------------------------------


def _cause(graph: Graph, node: Node) -> str:
    """What made the operand lie as it does."""
    value, axes = node.inputs[0], axes_of(node)
    pending = [axis for axis in axes if axis in value.type.layout.pending_axes]
    if pending:
        made: dict[str, list[str]] = {}
        for axis in pending:
            made.setdefault(_made_pending(graph, value, axis), []).append(axis)
        return "; ".join(f"{rule} over {' and '.join(over)}" for rule, over in made.items())
    split = [str(dim) for dim, over in zip(value.shape, value.type.layout.splits, strict=True) if set(over) & set(axes)]
    producer = graph.producers.get(graph.origin(value))
    by = "as it is stored" if producer is None else f"as {producer.operator.key} made it"
    over = " and ".join(axes)
    return f"{' and '.join(split)} is split over {over}, {by}" if split else f"replicated over {over}, {by}"


def _made_pending(graph: Graph, value: Value, axis: str) -> str:
    """`matmul sums over k, split`: the rule that left `value` pending over `axis`."""
    node = graph.producers.get(value)
    while node is not None:
        source = next((v for v in node.inputs if axis in v.type.layout.pending_axes), None)
        if source is None:
            break
        value, node = source, graph.producers.get(source)
    if node is None:
        return f"{value.name} is handed in pending"
    rule = node.inference.rule
    assignment = node.assignment
    kept = {factor for o, v in zip(rule.outputs, node.outputs, strict=True) if v is value for factor in o.factors}
    summed = [factor for factor, axes in assignment.items() if axis in axes and factor not in kept]
    verb = "takes the maximum" if node.operator.reduction == "max" else "sums"
    dims = [str(node.inference.factors[factor]) for factor in summed]
    return f"{node.name} = {node.operator.key}(…) {verb} over {' and '.join(dims)}, split"


def _need(graph: Graph, node: Node) -> str:
    """What reads the result, and as which operand."""
    found, value = readers_of(graph, node)
    returned = value in graph.outputs
    if not found:
        return "the graph's outputs" if returned else "nothing"
    (reader, position), others = found[0], len(found) - 1 + returned
    more = f" and {others} more" if others else ""
    return f"{reader.name} = {reader.operator.key}(…) as {reader.inference.rule.inputs[position].name}{more}"


def readers_of(graph: Graph, node: Node) -> tuple[list[tuple[Node, int]], Value]:
    """The nodes that read a collective's result, through further ones, and as which operand; and what they read."""
    value = node.outputs[0]
    while True:
        readers = graph.uses[value]
        further = [reader for reader, _ in readers if reader.operator.relayout is not None]
        if not readers or len(further) < len(readers):
            break
        value = further[0].outputs[0]
    return [(reader, position) for reader, position in readers if reader.operator.relayout is None], value


# -- partner ----------------------------------------------------------------------------------------------


def _partner(graph: Graph, node: Node, moved: _Moved) -> str:
    """What stands for this collective in the other pass."""
    value, axes = graph.origin(node.inputs[0]), set(axes_of(node))
    for each in moved[value]:
        if each is node:
            break
        if each.operator is node.operator and axes & set(axes_of(each)):
            return f"{each.name} again"
    mirror = _mirror(graph, value)
    if mirror is None:
        return "none: no gradient flows here"
    found = [each.name for each in moved.get(mirror, ()) if axes & set(axes_of(each))]
    return ", ".join(found) or f"identity on {mirror.name}"


def _mirror(graph: Graph, value: Value) -> Value | None:
    """The gradient of a value, or what a gradient is of.

    Autodiff calls the gradient of `a/X` `a/dX`, and the part of it that comes from `a/Q`, `a/dX.Q`.
    """
    gradient = graph.find(gradient_name(value.name))
    if gradient is not None:
        return graph.origin(gradient)
    producer = graph.producers.get(value)
    if producer is None or producer.meta.phase == FORWARD or not value.local_name.startswith("d"):
        return None
    for name in (value.local_name[1:], value.local_name[1:].partition(".")[0]):
        primal = graph.find(join(value.scope, name))
        if primal is not None:
            return graph.origin(primal)
    return None
