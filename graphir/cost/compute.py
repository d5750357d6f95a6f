"""Elements and floating-point operations, counted from types and iteration spaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from graphir.cost.polynomial import Polynomial
from graphir.formula.flops import find_operations
from graphir.ir.dims import Dim, product
from graphir.ir.graph import Graph, Node
from graphir.ir.layout import axis_symbol, local_shape
from graphir.ir.operator import Attributes, Operator
from graphir.ir.types import TensorType
from graphir.ir.value import Value

#: What nodes that cost the same have in common.
Kind: TypeAlias = tuple[Operator, Attributes, tuple[TensorType, ...]]


def count_elements(values: Iterable[Value]) -> Polynomial:
    """The elements that one rank holds of `values`: of a graph's parameters, its size."""
    return Polynomial((product(local_shape(value.shape, value.type.layout)), 1) for value in values)


def node_flops(node: Node) -> Polynomial:
    """What one rank computes at `node`: the operator's FLOPs a point, times the points of its iteration space.

    A matmul counts 2 a point (multiply and add), its d-node 4, or 2 if one of the two gradients is wanted. Of an
    operator that does not say, operations are counted in its formula. A fused node computes what the nodes that it
    holds do.
    """
    body = node.body
    if body is not None:
        return count_flops(body)
    rule, factors = node.inference.rule, node.inference.factors
    assignment = node.assignment
    return Polynomial(
        (product(_local(factors[f], assignment.get(f, ())) for f in rule.factors if f in visited), count)
        for visited, count in find_operations(node).items()
    )


def _local(dim: Dim, axes: Iterable[str]) -> Dim:
    return dim / product(map(axis_symbol, axes))


def count_flops(graph: Graph, phase: str | None = None) -> Polynomial:
    """The FLOPs of one run on one rank; of the nodes of one phase (forward, backward, update), if given."""
    wanted = (node for node in plain_nodes(graph) if phase is None or node.meta.phase == phase)
    return Polynomial(
        (dim, count * times) for node, times in alike(wanted) for dim, count in node_flops(node).terms.items()
    )


def alike(nodes: Iterable[Node], by_phase: bool = False) -> list[tuple[Node, int]]:
    """One of each kind of node, and how many there are: layers repeat each other, and one of them is worked out.

    Kinds are told apart by their phases, too, if asked for.
    """
    first: dict[tuple[Kind, str], Node] = {}
    counts: Counter[tuple[Kind, str]] = Counter()
    for node in nodes:
        kind = kind_of(node), node.meta.phase if by_phase else ""
        first.setdefault(kind, node)
        counts[kind] += 1
    return [(node, counts[kind]) for kind, node in first.items()]


def kind_of(node: Node) -> Kind:
    """What a node's cost follows from: its operator, its attributes and the types of what it reads."""
    return node.operator, node.attributes, tuple([value.type for value in node.inputs])


def plain_nodes(graph: Graph) -> Iterator[Node]:
    """The graph's nodes, in place of a fused one those that it holds: what has a cost, an operator and a phase."""
    for node in graph.nodes:
        body = node.body
        yield from (node,) if body is None else plain_nodes(body)
