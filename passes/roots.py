"""Where a backward walk starts: at the loss, or, of a block without one, at its results."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.errors import DifferentiationError
from graphir.ir.analysis import needed_nodes
from graphir.ir.graph import Graph
from graphir.ir.value import Value


def find_loss(graph: Graph, name: str | None) -> Value:
    """The value called `name`, or the one scalar float output; DifferentiationError if there is no such scalar."""
    if name is None:
        scalars = [value for value in graph.outputs if value.type.rank == 0 and value.type.is_float]
        if len(scalars) != 1:
            found = ", ".join(f"{value.name} {value.type}" for value in graph.outputs) or "none"
            raise DifferentiationError(
                f"graph {graph.name} needs exactly one scalar float output to be the loss, or loss=…; outputs: {found}"
            )
        return scalars[0]
    root = graph[name]
    if root.type.rank or not root.type.is_float:
        raise DifferentiationError(f"the loss must be a float scalar, but {root.name} is {root.type}; sum it first")
    return root


def find_results(graph: Graph, names: Sequence[str]) -> list[Value]:
    """The values of these names; DifferentiationError if one is no float, or is read on the way to another."""
    found = [graph[name] for name in names]
    if not found:
        raise DifferentiationError(f"results=[] names nothing to differentiate graph {graph.name} from")
    for value in found:
        if not value.type.is_float:
            raise DifferentiationError(f"the result {value.name} is {value.type}: only floats have gradients")
        others = needed_nodes(graph, [each for each in found if each is not value])
        if any(value in node.inputs for node in others):
            raise DifferentiationError(
                f"the result {value.name} is read on the way to another, so that its gradient is not handed in but "
                f"made: leave it out of results"
            )
    return found


def last_results(graph: Graph) -> list[str]:
    """The float outputs that no other output is made of: what stands at the end of a block without a loss."""
    floats = [value for value in graph.outputs if value.type.is_float]
    return [
        value.name
        for value in floats
        if not any(value in node.inputs for node in needed_nodes(graph, [each for each in floats if each is not value]))
    ]
