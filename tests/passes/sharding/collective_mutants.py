"""Sharded graphs with one collective wrong: rewired, dropped, repeated, exchanged for another, over another axis.

Each is written down as a hand could have left it: with every name, type and reason as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value

KINDS = ("rewired", "dropped", "repeated", "twice", "exchanged", "results exchanged", "other axis", "other dim")


@dataclass(frozen=True)
class Mutant:
    """What was done to which collective, what to, and the graph that came of it."""

    kind: str
    node: Node
    what: str
    graph: Graph

    def __str__(self) -> str:
        return f"{self.kind} {self.node.name}: {self.what}"


def mutants(graph: Graph) -> Iterator[Mutant]:
    """Every mutant of every collective."""
    moved = [node for node in graph.nodes if node.operator.relayout is not None]
    for node in moved:
        yield from _rewired(graph, node)
        yield Mutant("dropped", node, "its readers read its operand", _dropped(graph, node))
        yield _repeated(graph, node)
        yield _twice(graph, node)
        yield from _otherwise(graph, node)
    for one, other in combinations(moved, 2):
        yield from _exchanged(graph, one, other)


def _rewired(graph: Graph, node: Node) -> Iterator[Mutant]:
    """Its operand is another value of the same type that is there by then."""
    (operand,) = node.inputs
    for value in _before(graph, node):
        if value is not operand and value.type == operand.type:
            yield Mutant("rewired", node, f"moves {value.name}", _with(graph, {node: [_on(node, value)]}))


def _dropped(graph: Graph, node: Node) -> Graph:
    return _read(_with(graph, {node: []}), {node.outputs[0]: node.inputs[0]})


def _repeated(graph: Graph, node: Node) -> Mutant:
    """What it makes is reduced, gathered, cut, … again."""
    (made,) = node.outputs
    again = Value(f"{made.name}.repeated", made.type, made.owner)
    changed = _read(graph, {made: again})
    found = next(each for each in changed.nodes if each.outputs == node.outputs)
    return Mutant("repeated", node, "it is done again", _with(changed, {found: [found, _copy(node, (made,), again)]}))


def _twice(graph: Graph, node: Node) -> Mutant:
    """A second of the kind stands beside it, and is what is read."""
    (made,) = node.outputs
    second = Value(f"{made.name}.twice", made.type, made.owner)
    changed = _read(graph, {made: second})
    found = next(each for each in changed.nodes if each.outputs == node.outputs)
    return Mutant("twice", node, "its copy is read", _with(changed, {found: [found, _copy(node, node.inputs, second)]}))


def _otherwise(graph: Graph, node: Node) -> Iterator[Mutant]:
    """It runs over another axis, or along another dim."""
    attributes = node.attributes
    for axis in graph.mesh.names:
        name, value = ("axes", (axis,)) if "axes" in attributes else ("axis", axis)
        if attributes[name] != value:
            yield Mutant("other axis", node, f"over {axis}", _with(graph, {node: [_changed(node, {name: value})]}))
    for name in {"dim", "source", "target"} & set(attributes):
        for dim in range(node.inputs[0].type.rank):
            if dim != attributes[name]:
                what = f"{name}={dim}"
                yield Mutant("other dim", node, what, _with(graph, {node: [_changed(node, {name: dim})]}))


def _exchanged(graph: Graph, one: Node, other: Node) -> Iterator[Mutant]:
    """Two move each other's operand; or who reads the one reads the other."""
    (mine,), (theirs,) = one.inputs, other.inputs
    if mine is not theirs and mine.type == theirs.type and theirs in _before(graph, one):
        swapped = _with(graph, {one: [_on(one, theirs)], other: [_on(other, mine)]})
        yield Mutant("exchanged", one, f"moves what {other.name} should", swapped)
    (made,), (its) = one.outputs, other.outputs[0]
    if made.type == its.type and not any(graph.nodes.index(r) < graph.nodes.index(other) for r, _ in graph.uses[made]):
        what = f"read by who should read {other.name}"
        yield Mutant("results exchanged", one, what, _read(graph, {made: its, its: made}))


# -- graphs, written anew -----------------------------------------------------------------------------------


def _before(graph: Graph, node: Node) -> list[Value]:
    earlier = graph.nodes[: graph.nodes.index(node)]
    return [*graph.arguments, *(value for each in earlier for value in each.outputs)]


def _copy(node: Node, inputs: tuple[Value, ...], made: Value) -> Node:
    return Node(node.operator, inputs, node.attributes, (made,), node.meta)


def _on(node: Node, value: Value) -> Node:
    return _copy(node, (value,), node.outputs[0])


def _changed(node: Node, changes: Mapping[str, object]) -> Node:
    attributes = node.operator.normalize({**node.attributes, **changes})
    return Node(node.operator, node.inputs, attributes, node.outputs, node.meta)


def _with(graph: Graph, instead: Mapping[Node, Sequence[Node]]) -> Graph:
    """The graph with nodes put in the place of some."""
    return _rebuilt(graph, [each for node in graph.nodes for each in instead.get(node, [node])], lambda value: value)


def _read(graph: Graph, instead: Mapping[Value, Value]) -> Graph:
    """The graph with others read, and returned, in the place of some values."""

    def read(value: Value) -> Value:
        return instead.get(value, value)

    nodes = [
        Node(node.operator, tuple(map(read, node.inputs)), node.attributes, node.outputs, node.meta)
        for node in graph.nodes
    ]
    return _rebuilt(graph, nodes, read)


def _rebuilt(graph: Graph, nodes: Sequence[Node], read: Callable[[Value], Value]) -> Graph:
    outputs = [read(value) for value in graph.outputs]
    aliases = {name: read(value) for name, value in graph.aliases.items()}
    return Graph(graph.name, graph.inputs, graph.parameters, graph.state, outputs, nodes, aliases, graph.mesh)
