"""Why a gradient does not exist: what stands on the way from the loss to what it is wanted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphir.ir.analysis import dependents, needed_nodes
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value


@dataclass(frozen=True)
class Obstacles:
    """What a DifferentiationError says of `graph` and its loss, or of a block and its results: its `roots`."""

    graph: Graph
    roots: Sequence[Value]

    @property
    def _roots(self) -> str:
        """`the loss L`, or `the results Y, Z`."""
        names = ", ".join(root.name for root in self.roots)
        what = "loss" if not self.roots[0].type.rank else f"result{'s' * (len(self.roots) > 1)}"
        return f"the {what} {names}"

    def at(self, node: Node, why: str) -> str:
        """A node without a gradient, with the path from the loss to it."""
        at = f" ({node.meta.at})" if node.meta.at else ""
        return (
            f"{node.name} = {node.operator.key}(…){at} has no gradient: {why}.\n"
            f"  The loss depends on it by {' <- '.join(self._path_to(node))}.\n"
            f"  Take it out of that path, or leave what lies behind it out of wrt."
        )

    def before(self, targets: Sequence[Value]) -> str:
        """Why no gradient reaches these: the last node without one that lies before them, or no path at all."""
        behind = dependents(self.graph, targets)
        for node in reversed(needed_nodes(self.graph, self.roots)):
            if node.operator.no_gradient and not behind.isdisjoint(node.inputs):
                return self.at(node, node.operator.no_gradient)
        names = ", ".join(target.name for target in targets)
        return f"{self._roots} do{'es' * (len(self.roots) == 1)} not depend on {names}; leave it out of wrt"

    def _path_to(self, goal: Node) -> list[str]:
        """Names from the loss back to `goal`'s output, along the shortest way."""
        parent: dict[Value, Value | None] = dict.fromkeys(self.roots)
        queue = [*self.roots]
        for value in queue:
            if value in goal.outputs:
                path: list[str] = []
                step: Value | None = value
                while step is not None:
                    path.append(step.name)
                    step = parent[step]
                return path[::-1]
            node = self.graph.producers.get(value)
            for operand in node.inputs if node else ():
                if operand not in parent:
                    parent[operand] = value
                    queue.append(operand)
        return [root.name for root in self.roots]
