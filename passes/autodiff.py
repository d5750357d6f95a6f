"""Reverse-mode differentiation as a pass: forward graph in, joint graph of forward and d-nodes out (B 3).

For each node y = f(x₁, …, x_k), from the last to the first, the d-operator's node
(dx₁, …, dx_k) = df(x₁, …, x_k, dy) is added, with the forward values it needs as explicit inputs.

Names. The gradient of `layer0/mha/W_Q` is `layer0/mha/dW_Q`. Where a value has several uses, each use
contributes `dX.` + the name of what the use makes, and a + sums them. A block that has its own name for a
value that enters it (an alias, `layer0/mha/X`) has its own gradient of it, too: `layer0/mha/dX` is what
flows back through that block, as the documents draw it, and the sum over all blocks is the value's gradient.

Dtypes. A gradient is of its value's dtype or wider: what products of 16-bit operands add up in float32 stays so up to
the parameter. It is rounded where a d-node would have to take it beside its own narrow operands.

Start. The walk starts from dL = 1; of a block without a loss, from the gradients of its results, which are inputs of
the joint graph then, as B draws a block's backward pass.

Scale. In place of 1 it may start from a *loss scale* s, that small gradients be no zeros in float16; then all
gradients are s times what they are called, and `optimize` divides by s. It is the value `loss_scale/scale`: a
constant, or, where it is to follow the gradients, a state, with the number of good steps in a row beside it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphir.errors import ConfigError, DifferentiationError
from graphir.ir.analysis import dependents, needed_nodes
from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.graph import BACKWARD, FORWARD, Graph, Node
from graphir.ir.layout import Layout
from graphir.ir.operator import GradientContext
from graphir.ir.types import DTYPES, widest
from graphir.ir.value import Value, gradient_name
from graphir.operators.cast import cast_to
from graphir.operators.elementwise import add, scale, zeros
from graphir.operators.loss import one
from graphir.passes.obstacles import Obstacles
from graphir.passes.patterns import operands, readers
from graphir.passes.rename import rename, wide_names
from graphir.passes.roots import find_loss, find_results, last_results
from graphir.passes.sharding.reshard import route

#: The loss scale of a graph that has one, and the steps in a row that were good with it.
SCALE, GOOD = "loss_scale/scale", "loss_scale/good"


@without_collector
def autodiff(
    graph: Graph,
    loss: str | None = None,
    wrt: Sequence[str] | None = None,
    *,
    results: Sequence[str] | None = None,
    loss_scale: float | None = None,
    dynamic: bool = False,
) -> Graph:
    """The graph with the gradient of `loss` (default: its one scalar output) added to its outputs.

        Y = matmul(X, W)                       Y = matmul(X, W)
        L = sum(Y)                             L = sum(Y)
                                               dL = one()
                                               dY = BC(dL)
                                               dW = dMatmul(X, dY) {only=("dW",)}

    `wrt` names parameters or inputs; all parameters if it is None. The gradient of `a/b/X` is `a/b/dX`, of the
    same type, or wider than 16 bits where it was added up so. Nothing is added that no such gradient needs.
    Of a block without a loss, `results` names what it makes: the gradient `dY` of a result `Y` is an input then.
    With `loss_scale`, gradients are those of the loss times that number; with `dynamic`, of a state that starts
    from it, which `optimize` moves.
    Errors: DifferentiationError if the loss is not a float scalar, a result is made of another, or a gradient does not
    exist; it shows the path from the loss to what stands in the way. ConfigError for a loss scale that is no positive
    number.
    """
    if dynamic and loss_scale is None:
        raise ConfigError("dynamic=True moves a loss scale, but none is given; say where it starts: loss_scale=65536")
    if loss_scale is not None and not 0 < loss_scale < math.inf:
        raise ConfigError(f"loss_scale={loss_scale} must be a positive number")
    roots = [find_loss(graph, loss)] if results is None else find_results(graph, results)
    wrt = [wrt] if isinstance(wrt, str) else wrt
    targets = list(graph.parameters) if wrt is None else [graph[name] for name in wrt]
    for target in targets:
        if not target.type.is_float:
            raise DifferentiationError(f"{target.name} is {target.type}: only floats have gradients")
    return _Autodiff(graph, roots, targets).run(results is not None, loss_scale, dynamic)


def with_gradients(graph: Graph, *, loss_scale: float | None = None, dynamic: bool = False) -> Graph:
    """Any graph with its backward pass: as it is where it has one, else from its loss, or from what it results in.

    With a loss, a sole scalar output, gradients are those of all parameters; of a block without one those of its
    inputs, too, since a block hands on what flows back through it; not those of inputs that whoever reads them takes as
    given, as angles are. A loss may be scaled as `autodiff` has it; the gradients of results are scaled by who hands
    them in.
    Errors: DifferentiationError as `autodiff`.
    """
    if any(node.meta.phase != FORWARD for node in graph.nodes):
        return graph
    losses = [value.name for value in graph.outputs if value.type.is_float and not value.type.rank]
    roots = losses if len(losses) == 1 else last_results(graph)
    read = {value for node in needed_nodes(graph, [graph[name] for name in roots]) for value in node.inputs}
    targets = graph.parameters if len(losses) == 1 and graph.parameters else (*graph.inputs, *graph.parameters)
    given = {value for value in graph.inputs if all(_is_given(node, value) for node in readers(graph, value))}
    wrt = [value.name for value in targets if value.type.is_float and value in read - given]
    if roots is losses:
        return autodiff(graph, losses[0], wrt, loss_scale=loss_scale, dynamic=dynamic)
    return autodiff(graph, wrt=wrt, results=roots)


def _is_given(node: Node, value: Value) -> bool:
    """Whether a node takes `value` as given, so that no gradient flows back to it."""
    roles = {name for name, each in operands(node).items() if each is value}
    return roles <= node.operator.taken_as_given(node.inference, node.attributes)


@dataclass
class _Group:
    """The contributions to a value's gradient that come through one block.

    `name` is what the block calls the value; the value's own name stands for all that no block claims.
    `inner` are the groups of blocks inside this one.
    """

    name: str
    expected: int = 0
    arrived: list[Value] = field(default_factory=list)
    inner: list[_Group] = field(default_factory=list)


class _Autodiff:
    def __init__(self, graph: Graph, roots: list[Value], targets: list[Value]) -> None:
        self.graph, self.roots, self.targets = graph, roots, targets
        self.obstacles = Obstacles(graph, roots)
        self.active = {value for value in dependents(graph, targets) if value.type.is_float}
        self.aliases_of: dict[Value, list[str]] = defaultdict(list)
        for name, value in graph.aliases.items():
            self.aliases_of[value].append(name)
        self.contributing = self._contributing_uses()
        self.groups: dict[Value, dict[str, _Group]] = {}
        self.gradients: dict[Value, Value] = {}
        #: What flows back through each block, by the block's name for the value.
        self.through: dict[str, Value] = {}
        self.builder, self.copies = Builder.extending(graph)

    def run(self, given: bool, loss_scale: float | None, dynamic: bool) -> Graph:
        """The joint graph; the roots' gradients are `given`, or the one root is a loss."""
        self._check_names()
        if self.active.isdisjoint(self.roots):
            raise DifferentiationError(self.obstacles.before(self.targets))
        for root in self.roots:
            self.gradients[root] = self._given(root) if given else self._start(root, loss_scale, dynamic)
        for node in reversed(self.graph.nodes):
            self._visit(node)
        lost = [target for target in self.targets if self._gradient(target) is None]
        if lost:
            raise DifferentiationError(self.obstacles.before(lost))
        for value in (*self.graph.arguments, *self.graph.producers):
            self._alias_gradients(value)
        outputs = (*self.graph.outputs, *(root for root in self.roots if root not in self.graph.outputs))
        joint = self.builder.build(
            *(self.copies[value] for value in outputs), *(self.gradients[target] for target in self.targets)
        )
        return rename(joint, wide_names(self.graph, joint, self.gradients))

    def _given(self, result: Value) -> Value:
        """dY: what the program around the block hands in."""
        name = self.builder.free_name(gradient_name(result.name))
        return self.builder.input(f"/{name}", result.shape, result.dtype, result.type.layout.settled())

    def _start(self, loss: Value, loss_scale: float | None, dynamic: bool) -> Value:
        """dL: 1, or the loss scale."""
        builder, dtype = self.builder, loss.dtype
        if dynamic:
            assert loss_scale is not None
            builder.state(f"/{GOOD}", (), "int64")
            return builder.state(f"/{SCALE}", (), dtype, f"full({loss_scale:.17g})")
        with builder.context(scope=loss.scope, phase=BACKWARD):
            if loss_scale is not None:
                return scale(one(builder=builder, dtype=dtype), by=loss_scale, name=f"/{SCALE}")
            name = builder.free_name(gradient_name(loss.name))
            return one(builder=builder, name=f"/{name}", dtype=dtype)

    def _check_names(self) -> None:
        """The gradient of a target must get the target's name with a d, so nothing else may bear it."""
        if not self.targets:
            why = "wrt names nothing" if self.graph.parameters else "it has no parameters; name inputs by wrt=[…]"
            raise DifferentiationError(f"there is nothing to differentiate graph {self.graph.name} for: {why}")
        for target in self.targets:
            name = gradient_name(target.name)
            if name in self.graph.values or name in self.graph.aliases:
                raise DifferentiationError(
                    f"the gradient of {target.name} is called {name}, but graph {self.graph.name} has a value of that "
                    f"name already; rename one of them, or leave {target.name} out of wrt"
                )

    # -- which uses of a value contribute to its gradient ---------------------------------------------

    def _contributing_uses(self) -> dict[Value, list[tuple[Node, str]]]:
        """For each value, the uses through which the loss depends on it, as far as gradients are wanted.

        A use is the node that reads the value, and what the innermost block around the node calls the value.
        """
        reached = {*self.roots}
        uses: dict[Value, list[tuple[Node, str]]] = defaultdict(list)
        for node in reversed(self.graph.nodes):
            if reached.isdisjoint(node.outputs):
                continue
            active = [value for value in node.inputs if value in self.active]
            if not active or node.operator.no_gradient:
                # A node without gradient on the way is an error only if the path matters: see _visit.
                continue
            reached.update(active)
            for value in active:
                uses[value].append((node, self._block_name(value, node.meta.scope)))
        for each in uses.values():
            each.reverse()
        return uses

    def _groups_of(self, value: Value) -> dict[str, _Group]:
        """The value's groups by name, the whole one under the value's own; made when the first part arrives."""
        if value not in self.groups:
            names = [name for _, name in self.contributing[value]]
            whole = _Group(value.name)
            groups = {value.name: whole}
            for name in sorted(dict.fromkeys(names), key=lambda name: name.count("/")):
                groups.setdefault(name, _Group(name))
            for name, group in groups.items():
                if group is not whole:
                    outside = _block(name).rpartition("/")[0]
                    groups.get(self._block_name(value, outside), whole).inner.append(group)
            for name in names:
                groups[name].expected += 1
            self.groups[value] = groups
        return self.groups[value]

    def _block_name(self, value: Value, scope: str) -> str:
        """What the innermost block around `scope` calls `value`: an alias, or the value's own name."""
        if value not in self.aliases_of:
            return value.name
        around = [alias for alias in self.aliases_of[value] if _inside(scope, _block(alias))]
        return max(around, key=lambda alias: len(_block(alias)), default=value.name)

    # -- the backward walk ----------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        gradients = tuple([self._gradient(value) for value in node.outputs])
        if all(gradient is None for gradient in gradients):
            return
        wanted = [position for position, value in enumerate(node.inputs) if value in self.active]
        if not wanted:
            return
        rule = node.inference.rule
        for result, gradient in zip(rule.outputs, gradients, strict=True):
            if gradient is not None and result.name in node.operator.auxiliary:
                why = f"its output {result.name} is a cached statistic, which carries no gradient"
                raise DifferentiationError(self.obstacles.at(node, why))
        if node.operator.no_gradient:
            raise DifferentiationError(self.obstacles.at(node, node.operator.no_gradient))
        groups = {position: self._groups_of(node.inputs[position]) for position in wanted}
        names: list[str | None] = [None] * len(node.inputs)
        for position in wanted:
            name = f"/{self._contribution_name(node, position, groups[position])}"
            # X ⊙ X: one node, two contributions to the same value.
            names[position] = f"{name}.{position}" if name in names else name
        copy = tuple([self.copies[value] for value in node.inputs])
        outputs = tuple([self.copies[value] for value in node.outputs])
        with self.builder.context(scope=node.meta.scope, phase=BACKWARD, of=node.name, at=node.meta.at):
            gradients = tuple([self._fit(node, *pair) for pair in zip(outputs, gradients, strict=True)])
            gradients = self._complete(node, outputs, gradients)
            made = node.operator.differentiate(
                GradientContext(node.inference, copy, outputs, node.attributes, gradients, tuple(names))
            )
        if len(made) != len(node.inputs):
            why = f"its rule returns {len(made)} gradients for {len(node.inputs)} operands"
            raise DifferentiationError(self.obstacles.at(node, why))
        for position in wanted:
            value, contribution, operand = node.inputs[position], made[position], rule.inputs[position].name
            if contribution is None:
                raise DifferentiationError(
                    self.obstacles.at(node, f"it declares no gradient for its operand {operand}")
                )
            if contribution.shape != value.shape or not _holds(contribution.dtype, value.dtype):
                why = f"the gradient of its operand {operand} is {contribution.type}, but {value.name} is {value.type}"
                raise DifferentiationError(self.obstacles.at(node, why))
            groups[position][self._block_name(value, node.meta.scope)].arrived.append(contribution)

    def _fit(self, node: Node, output: Value, gradient: Value | None) -> Value | None:
        """The gradient as the d-node of `node` takes it: of the output's dtype where it is read beside forward values.

        What is linear in its only float operand, or in all of them together, needs none of these.
        """
        floats = [value for value in node.inputs if value.type.is_float]
        alone = node.operator.jointly_linear or (bool(node.operator.linear) and len(floats) == 1)
        return gradient if gradient is None or alone else cast_to(gradient, output.dtype)

    def _complete(
        self, node: Node, outputs: tuple[Value, ...], gradients: tuple[Value | None, ...]
    ) -> tuple[Value | None, ...]:
        """Zeros for the outputs that the loss does not depend on, where it does on others of the same node."""
        auxiliary = node.operator.auxiliary
        return tuple(
            zeros(output, name=f"/{self.builder.free_name(gradient_name(output.name))}")
            if gradient is None and output.type.is_float and operand.name not in auxiliary
            else gradient
            for output, gradient, operand in zip(outputs, gradients, node.inference.rule.outputs, strict=True)
        )

    def _contribution_name(self, node: Node, position: int, groups: dict[str, _Group]) -> str:
        """The gradient's name where a block has one use of the value only, else that and what the use makes."""
        value = node.inputs[position]
        group = groups[self._block_name(value, node.meta.scope)]
        alone = group.expected == 1 and not group.inner
        if alone and all(each is group or not each.expected for each in groups.values()):
            # The only use there is: its part is the whole, and a block's name for it becomes an alias.
            return self.builder.free_name(gradient_name(value.name))
        name = gradient_name(group.name)
        return self.builder.free_name(name if alone else f"{name}.{node.outputs[0].local_name}")

    def _gradient(self, value: Value) -> Value | None:
        """The gradient of `value`, its contributions summed; None if none arrived."""
        if value not in self.gradients:
            groups = self.groups.get(value)
            at = next((node.meta.at for node, _ in self.contributing[value]), None)
            total = self._total(value, groups[value.name], at) if groups else None
            if total is None:
                return None
            self.gradients[value] = self._settle(value, total, at)
        return self.gradients[value]

    def _total(self, value: Value, group: _Group, at: str | None) -> Value | None:
        """What flows back through a block: its own contributions and those of the blocks inside."""
        inner = [self._total(value, each, at) for each in group.inner]
        parts = [*group.arrived, *(part for part in inner if part is not None)]
        if not parts:
            return None
        total = self._sum(value, group.name, parts, at)
        self.through[group.name] = total
        return total

    def _sum(self, value: Value, name: str, parts: list[Value], at: str | None) -> Value:
        if len(parts) == 1:
            return parts[0]
        full = self.builder.free_name(gradient_name(name))
        scope = full.rpartition("/")[0]
        wide = widest(part.dtype for part in parts)
        if any(part.dtype != wide for part in parts):
            with self.builder.context(scope=scope, phase=BACKWARD, of=name, at=at, why=f"summed up in {wide}"):
                parts = [cast_to(part, wide) for part in parts]
        if len({part.type.layout for part in parts}) > 1:
            layout = value.type.layout.settled()
            parts = [self._bring(part, layout, scope, name, at) for part in parts]
        with self.builder.context(scope=scope, phase=BACKWARD, of=name, at=at, why="several uses"):
            return add(*reversed(parts), name=f"/{full}")

    def _settle(self, value: Value, gradient: Value, at: str | None) -> Value:
        """In a graph that is sharded already: the gradient as its value lies, nothing pending."""
        return self._bring(gradient, value.type.layout.settled(), value.scope, value.name, at)

    def _bring(self, gradient: Value, layout: Layout, scope: str, name: str, at: str | None) -> Value:
        """`gradient` brought to `layout` by collectives; on one rank there are none."""
        if gradient.type.layout == layout:
            return gradient
        why = f"the gradient of {name} lies as {name} does, {layout}"
        for hop in route(gradient.type.layout, layout):
            with self.builder.context(scope=scope, phase=BACKWARD, of=name, at=at, why=why):
                full = self.builder.free_name(f"{gradient.name}.{hop.operator.key}")
                (gradient,) = self.builder.emit(hop.operator, [gradient], hop.attributes, f"/{full}")
        return gradient

    def _alias_gradients(self, value: Value) -> None:
        """A block's name for a value names what flows back through the block; one at the top, the gradient."""
        gradient = self.gradients.get(value)
        if gradient is None:
            return
        self.through[value.name] = gradient
        for name in (value.name, *self.aliases_of.get(value, ())):
            through = self.through.get(name) if _block(name) or name == value.name else gradient
            alias = gradient_name(name)
            if through is not None and alias == self.builder.free_name(alias):
                self.builder.alias(f"/{alias}", through)


def _holds(dtype: str, other: str) -> bool:
    """Whether a gradient of `dtype` may be that of a value of dtype `other`: the same, or a wider one of 16 bits."""
    return dtype == other or (DTYPES[other] == 2 and DTYPES[dtype] > 2)


def _block(name: str) -> str:
    """The block that a full name lies in."""
    return name.rpartition("/")[0]


def _inside(scope: str, block: str) -> bool:
    return bool(block) and (scope == block or scope.startswith(f"{block}/"))
