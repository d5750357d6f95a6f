"""Patterns: what passes ask of nodes, by the traits that operators declare, and by how nodes lie in a graph.

A pattern is asked about a node, `view(node)`, and patterns make patterns:

    product & ~view                     a product that is no view
    read_only_by(graph, cast)           a node of whose results there are no other readers than casts
    leading_to(graph, cast)             a cast, or a view that only casts, or such views, read

They ask what a node is, and never what its operator is called, so that an operator which somebody declares tomorrow is
met by all that its traits let it take part in.
"""

from __future__ import annotations

from collections.abc import Callable

from graphir.ir.analysis import contracted
from graphir.ir.graph import Graph, Node
from graphir.ir.types import DTYPES
from graphir.ir.value import Value


class Pattern:
    """A question about a node that is answered by yes or no."""

    __slots__ = ("_holds",)

    def __init__(self, holds: Callable[[Node], object]) -> None:
        self._holds = holds

    def __call__(self, node: Node | None) -> bool:
        """Whether the node is so; where there is none, as nobody makes an argument, nothing is."""
        return node is not None and bool(self._holds(node))

    def __and__(self, other: Pattern) -> Pattern:
        one, two = self._holds, other._holds
        return Pattern(lambda node: one(node) and two(node))

    def __or__(self, other: Pattern) -> Pattern:
        one, two = self._holds, other._holds
        return Pattern(lambda node: one(node) or two(node))

    def __invert__(self) -> Pattern:
        holds = self._holds
        return Pattern(lambda node: not holds(node))


# -- by traits --------------------------------------------------------------------------------------------

#: Its result holds its operand's own elements in another order.
view = Pattern(lambda node: node.operator.view)
#: Its result is its operand in another dtype.
cast = Pattern(lambda node: node.operator.retypes)
widening = cast & Pattern(lambda node: DTYPES[node.outputs[0].dtype] > DTYPES[node.inputs[0].dtype])
narrowing = cast & Pattern(lambda node: DTYPES[node.outputs[0].dtype] < DTYPES[node.inputs[0].dtype])
#: Its result is its operand, lying otherwise on the mesh: it is where ranks meet.
collective = Pattern(lambda node: node.operator.relayout is not None)
#: A collective that forms what is pending: a sum, a maximum.
reduction = collective & Pattern(lambda node: node.inputs[0].type.layout.pending != node.outputs[0].type.layout.pending)
#: It sums over products of two operands, as a matrix product does.
product = Pattern(contracted)
#: An attribute says in which dtype it returns what it adds up, whatever it reads.
accumulating = Pattern(lambda node: node.operator.accumulates is not None)
#: It can make one of its results without the others.
separable = Pattern(lambda node: node.operator.is_separable)
#: It has one result.
single = Pattern(lambda node: len(node.outputs) == 1)
#: It reads something.
reading = Pattern(lambda node: node.inputs)


# -- by structure -----------------------------------------------------------------------------------------


def readers(graph: Graph, value: Value) -> list[Node]:
    """The nodes that read `value`, in order; one that reads it twice comes twice."""
    return [node for node, _ in graph.uses[value]]


def read_only_by(graph: Graph, pattern: Pattern) -> Pattern:
    """A node whose results are read, and by nodes of `pattern` alone; an output the caller reads, too."""
    outputs = frozenset(graph.outputs)

    def holds(node: Node) -> bool:
        found = [reader for value in node.outputs for reader in readers(graph, value)]
        return bool(found) and all(map(pattern, found)) and outputs.isdisjoint(node.outputs)

    return Pattern(holds)


def leading_to(graph: Graph, ends: Pattern, through: Pattern = view) -> Pattern:
    """A node of `ends`, or one of `through` that is there for such nodes alone: whose readers all lead to them."""
    found: set[Node] = set()
    leading = ends | Pattern(found.__contains__)
    serving = through & ~ends & read_only_by(graph, leading)
    for node in reversed(graph.nodes):  # readers come before what they read
        if serving(node):
            found.add(node)
    return leading


# -- by the names of a signature --------------------------------------------------------------------------


def operands(node: Node) -> dict[str, Value]:
    """What the node reads, by the operands' names in its signature."""
    return dict(zip((operand.name for operand in node.inference.rule.inputs), node.inputs, strict=True))


def results(node: Node) -> dict[str, Value]:
    """What the node makes, by the results' names in its signature."""
    return dict(zip((result.name for result in node.inference.rule.outputs), node.outputs, strict=True))
