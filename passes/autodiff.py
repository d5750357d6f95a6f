"""Reverse-mode differentiation as a pass: forward graph in, joint graph of forward and d-nodes out (B 3).

For each node y = f(x₁, …, x_k), from the last to the first, the d-operator's node
(dx₁, …, dx_k) = df(x₁, …, x_k, dy) is added, with the forward values it needs as explicit inputs.

Names. The gradient of `layer0/mha/W_Q` is `layer0/mha/dW_Q`. Where a value has several uses, each use
contributes `dX.` + the name of what the use makes, and a + sums them. A block that has its own name for a
value that enters it (an alias, `layer0/mha/X`) has its own gradient of it, too: `layer0/mha/dX` is what
flows back through that block, as the documents draw it, and the sum over all blocks is the value's gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphir.errors import DifferentiationError
from graphir.ir.analysis import dependents, needed_nodes
from graphir.ir.builder import Builder
from graphir.ir.graph import BACKWARD, Graph, Node
from graphir.ir.layout import Layout
from graphir.ir.operator import GradientContext
from graphir.ir.value import Value, join
from graphir.operators.elementwise import add
from graphir.operators.loss import one
from graphir.passes.sharding.reshard import route


def autodiff(graph: Graph, loss: str | None = None, wrt: Sequence[str] | None = None) -> Graph:
    """The graph with the gradient of `loss` (default: its one scalar output) added to its outputs.

    `wrt` names parameters or inputs; all parameters if it is None. The gradient of `a/b/X` is `a/b/dX`, of the
    same type. Nothing is added that no such gradient needs.
    Errors: DifferentiationError if the loss is not a float scalar, or a gradient does not exist; it shows the
    path from the loss to what stands in the way.
    """
    root = _find_loss(graph, loss)
    targets = list(graph.parameters) if wrt is None else [graph[name] for name in wrt]
    for target in targets:
        if not target.type.is_float:
            raise DifferentiationError(f"{target.name} is {target.type}: only floats have gradients")
    return _Autodiff(graph, root, targets).run()


def _find_loss(graph: Graph, name: str | None) -> Value:
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


@dataclass
class _Group:
    """The contributions to a value's gradient that come through one block, and the gradient's full name."""

    name: str
    expected: int = 0
    arrived: list[Value] = field(default_factory=list)


class _Autodiff:
    def __init__(self, graph: Graph, loss: Value, targets: list[Value]) -> None:
        self.graph, self.loss, self.targets = graph, loss, targets
        self.active = dependents(graph, targets)
        self.aliases_of: dict[Value, list[str]] = defaultdict(list)
        for name, value in graph.aliases.items():
            self.aliases_of[value].append(name)
        self.contributing = self._contributing_uses()
        self.groups: dict[Value, dict[str, _Group]] = {}
        self.gradients: dict[Value, Value] = {}
        self.builder, self.copies = Builder.extending(graph)

    def run(self) -> Graph:
        if self.loss not in self.active:
            raise DifferentiationError(self._unreachable(self.targets))
        with self.builder.context(scope=self.loss.scope, phase=BACKWARD):
            name = self.builder.free_name(_gradient_name(self.loss.name))
            self.gradients[self.loss] = one(builder=self.builder, name=f"/{name}", dtype=self.loss.dtype)
        for node in reversed(self.graph.nodes):
            self._visit(node)
        lost = [target for target in self.targets if self._gradient(target) is None]
        if lost:
            raise DifferentiationError(self._unreachable(lost))
        for value in (*self.graph.arguments, *self.graph.producers):
            self._alias_gradients(value)
        outputs = (*self.graph.outputs, *([] if self.loss in self.graph.outputs else [self.loss]))
        return self.builder.build(
            *(self.copies[value] for value in outputs), *(self.gradients[target] for target in self.targets)
        )

    # -- which uses of a value contribute to its gradient ---------------------------------------------

    def _contributing_uses(self) -> dict[Value, list[tuple[Node, int]]]:
        """For each value, the uses through which the loss depends on it, as far as gradients are wanted."""
        reached = {self.loss}
        uses: dict[Value, list[tuple[Node, int]]] = defaultdict(list)
        for node in reversed(self.graph.nodes):
            if reached.isdisjoint(node.outputs):
                continue
            active = [
                (position, value)
                for position, value in enumerate(node.inputs)
                if value in self.active and value.type.is_float
            ]
            if not active or node.operator.no_gradient:
                # A node without gradient on the way is an error only if the path matters: see _visit.
                continue
            for position, value in active:
                reached.add(value)
                uses[value].append((node, position))
        for each in uses.values():
            each.reverse()
        return uses

    def _groups_of(self, value: Value) -> dict[str, _Group]:
        """The value's groups by name; made when the first contribution arrives."""
        if value not in self.groups:
            groups: dict[str, _Group] = {}
            for node, _ in self.contributing[value]:
                name = self._block_name(value, node)
                groups.setdefault(name, _Group(name)).expected += 1
            if len(groups) == 1:
                # One block only: its part is the whole, and the alias names the same gradient.
                (group,) = groups.values()
                group.name = value.name
                groups = dict.fromkeys(groups, group)
            self.groups[value] = groups
        return self.groups[value]

    def _block_name(self, value: Value, node: Node) -> str:
        """What the innermost block around `node` calls `value`: an alias, or the value's own name."""
        scope = node.meta.scope
        for alias in self.aliases_of.get(value, ()):
            block = alias.rpartition("/")[0]
            if block and (scope == block or scope.startswith(f"{block}/")):
                return alias
        return value.name

    # -- the backward walk ----------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        gradients = tuple([self._gradient(value) for value in node.outputs])
        if all(gradient is None for gradient in gradients):
            return
        wanted = [position for position, value in enumerate(node.inputs) if value in self.active]
        wanted = [position for position in wanted if node.inputs[position].type.is_float]
        if not wanted:
            return
        rule = node.inference.rule
        for result, gradient in zip(rule.outputs, gradients, strict=True):
            if gradient is not None and result.name in node.operator.auxiliary:
                why = f"its output {result.name} is a cached statistic, which carries no gradient"
                raise DifferentiationError(self._blocked(node, why))
        if node.operator.no_gradient:
            raise DifferentiationError(self._blocked(node, node.operator.no_gradient))
        groups = {position: self._groups_of(node.inputs[position]) for position in wanted}
        names: list[str | None] = [None] * len(node.inputs)
        for position in wanted:
            name = f"/{self._contribution_name(node, position, groups[position])}"
            # X ⊙ X: one node, two contributions to the same value.
            names[position] = f"{name}.{position}" if name in names else name
        copy = tuple([self.copies[value] for value in node.inputs])
        outputs = tuple([self.copies[value] for value in node.outputs])
        with self.builder.context(scope=node.meta.scope, phase=BACKWARD, of=node.name, at=node.meta.at):
            made = node.operator.differentiate(
                GradientContext(node.operator, copy, outputs, node.attributes, gradients, tuple(names))
            )
        for position in wanted:
            contribution = made[position]
            if contribution is None:
                operand = rule.inputs[position].name
                raise DifferentiationError(self._blocked(node, f"it declares no gradient for its operand {operand}"))
            groups[position][self._block_name(node.inputs[position], node)].arrived.append(contribution)

    def _contribution_name(self, node: Node, position: int, groups: dict[str, _Group]) -> str:
        value = node.inputs[position]
        group = groups[self._block_name(value, node)]
        name = _gradient_name(group.name)
        alone = group.expected == 1 and (group.name != value.name or len(groups) == 1)
        if not alone:
            name = f"{name}.{node.outputs[0].local_name}"
        return self.builder.free_name(name)

    def _gradient(self, value: Value) -> Value | None:
        """The gradient of `value`, its contributions summed; None if none arrived."""
        if value in self.gradients:
            return self.gradients[value]
        groups = [group for group in self.groups.get(value, {}).values() if group.arrived]
        if not groups:
            return None
        at = next((node.meta.at for node, _ in self.contributing[value]), None)
        parts: list[Value] = []
        for group in groups:
            if group.name != value.name:
                parts.append(self._sum(group.name, group.arrived, at))
        own = next((group.arrived for group in groups if group.name == value.name), [])
        total = self._sum(value.name, [*own, *parts], at)
        self.gradients[value] = self._settle(value, total, at)
        return self.gradients[value]

    def _sum(self, name: str, parts: list[Value], at: str | None) -> Value:
        if len(parts) == 1:
            return parts[0]
        full = self.builder.free_name(_gradient_name(name))
        scope = full.rpartition("/")[0]
        if len({part.type.layout for part in parts}) > 1:
            layout = self.graph[name].type.layout.settled()
            parts = [self._bring(part, layout, scope, name, at) for part in parts]
        with self.builder.context(scope=scope, phase=BACKWARD, of=name, at=at, why="several uses"):
            return add(*reversed(parts), name=f"/{full}")

    def _settle(self, value: Value, gradient: Value, at: str | None) -> Value:
        """In a graph that is sharded already: the gradient as its value lies, nothing pending."""
        return self._bring(gradient, value.type.layout.settled(), value.scope, value.name, at)

    def _bring(self, gradient: Value, layout: Layout, scope: str, name: str, at: str | None) -> Value:
        """`gradient` brought to `layout` by collectives; on one rank there are none."""
        why = f"the gradient of {name} lies as {name} does, {layout}"
        for hop in route(gradient.type.layout, layout):
            with self.builder.context(scope=scope, phase=BACKWARD, of=name, at=at, why=why):
                full = self.builder.free_name(f"{gradient.name}.{hop.operator.key}")
                (gradient,) = self.builder.emit(hop.operator, [gradient], hop.attributes, f"/{full}")
        return gradient

    def _alias_gradients(self, value: Value) -> None:
        """A block's name for a value names its gradient, too, where nothing else does."""
        gradient = self.gradients.get(value)
        if gradient is None:
            return
        for name in (*self.aliases_of.get(value, ()), value.name):
            alias = _gradient_name(name)
            if alias == self.builder.free_name(alias):
                self.builder.alias(f"/{alias}", gradient)

    # -- what stands in the way -----------------------------------------------------------------------

    def _blocked(self, node: Node, why: str) -> str:
        path = self._path_to(node)
        at = f" ({node.meta.at})" if node.meta.at else ""
        return (
            f"{node.name} = {node.operator.key}(…){at} has no gradient: {why}.\n"
            f"  The loss depends on it by {' <- '.join(path)}.\n"
            f"  Take it out of that path, or leave what lies behind it out of wrt."
        )

    def _path_to(self, goal: Node) -> list[str]:
        """Names from the loss back to `goal`'s output, along the shortest way."""
        parent: dict[Value, Value | None] = {self.loss: None}
        queue = [self.loss]
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
        return [self.loss.name]

    def _unreachable(self, targets: Sequence[Value]) -> str:
        behind = dependents(self.graph, targets)
        for node in reversed(needed_nodes(self.graph, [self.loss])):
            if node.operator.no_gradient and not behind.isdisjoint(node.inputs):
                return self._blocked(node, node.operator.no_gradient)
        names = ", ".join(target.name for target in targets)
        return f"the loss {self.loss.name} does not depend on {names}; leave it out of wrt"


def _gradient_name(name: str) -> str:
    scope, _, local = name.rpartition("/")
    return join(scope, f"d{local}")
