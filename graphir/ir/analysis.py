"""What can be said of a graph without running it: what is needed, what depends on what, who lives how long."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from graphir.ir.graph import Graph, Node
from graphir.ir.operator import Operator
from graphir.ir.signature import Signature
from graphir.ir.value import Value

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> networkx.DiGraph[Node]:
    """The graph's nodes and, as edges, who reads whose output: for paths, cycles and other analyses."""
    import networkx  # late: it costs more to import than all of graphir

    result: networkx.DiGraph[Node] = networkx.DiGraph()
    result.add_nodes_from(graph.nodes)
    for node in graph.nodes:
        for value in node.inputs:
            if value in graph.producers:
                result.add_edge(graph.producers[value], node, value=value.name)
    return result


def depth(graph: Graph) -> int:
    """The number of nodes on the longest path: what no parallelism can shorten."""
    import networkx

    return len(networkx.dag_longest_path(to_networkx(graph), weight=None))


def needed_nodes(graph: Graph, values: Iterable[Value]) -> list[Node]:
    """The nodes that `values` are computed from, in the graph's order."""
    wanted = set(values)
    needed: list[Node] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            needed.append(node)
            wanted.update(node.inputs)
    needed.reverse()
    return needed


def dependents(graph: Graph, values: Iterable[Value]) -> set[Value]:
    """`values` and all whose content is computed from theirs; of a shape alone does not count."""
    found = set(values)
    for node in graph.nodes:
        if not node.operator.shape_only and not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def last_uses(nodes: Collection[Node], keep: Collection[Value]) -> list[tuple[Value, ...]]:
    """Per node, the values that die with it: read, or made and never read, and not among `keep`."""
    kept, seen = set(keep), set[Value]()
    dying: list[tuple[Value, ...]] = []
    for node in reversed(list(nodes)):
        dead = [v for v in dict.fromkeys((*node.inputs, *node.outputs)) if v not in seen and v not in kept]
        seen.update(dead)
        dying.append(tuple(dead))
    dying.reverse()
    return dying


def contracted(node: Node) -> tuple[str, ...]:
    """The factors that products of two operands are summed over: k of X[m k] • W[k n]; none of other nodes.

    Such a sum is a product, and not a sum of elementwise products, if each operand has a factor of the result that
    the other lacks. Each result counts for itself: of a node that makes dX and dW these are n, and b and m.
    """
    return _contracted(node.operator, node.inference.rule)


@lru_cache(maxsize=4096)
def _contracted(operator: Operator, rule: Signature) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for result in rule.outputs:
        kept, needed = set(result.factors), operator.dependencies(rule, (result.name,))
        # The terms of a sum, of which there may be very many, are alike.
        kinds = dict.fromkeys(operand.factors for operand in rule.inputs if operand.name in needed)
        for one, other in combinations(kinds, 2):
            mine, theirs = set(one), set(other)
            if (mine - theirs) & kept and (theirs - mine) & kept:
                found.update((factor, None) for factor in one if factor in theirs - kept)
    return tuple(found)
