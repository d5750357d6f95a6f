"""Recomputation (rematerialization) in place of storage: what the backward pass reads is made again from less.

A level says what forward values may be held for the backward pass; everything else that it reads is computed
again, in the backward phase, right before it is needed.

    nothing     hold all, dropout masks included
    masks       all but dropout's results, which follow from the operand and a counter, and casts of what is held, with
                the sums of casts to more bits with biases
    attention   and but what lies between attention's two products, [B, N_H, S, S]: made again from Q and K
    selective   only results of products outside of it and the residual stream (about as in Korthikanti et al., 2022)
    full        only the residual stream: each block is computed a second time (Chen et al., 2016)

Memory falls from level to level and time grows. At every level a number, such as the count of labels, is held, and
what comes after the residual stream, for with that the backward pass begins; a graph without such a stream has
nothing to make again at the last two levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from functools import cache

from graphir.errors import ConfigError
from graphir.ir.analysis import needed_nodes
from graphir.ir.collector import without_collector
from graphir.ir.gradient import Recomputation
from graphir.ir.graph import BACKWARD, FORWARD, Graph, Node
from graphir.ir.value import Value
from graphir.passes.fuse.back_to_back import find_back_to_back
from graphir.passes.fuse.units import Flow
from graphir.passes.patterns import cast, collective, product, view, widening
from graphir.passes.rewrite import Rewriter

LEVELS = ("nothing", "masks", "attention", "selective", "full")


@without_collector
def recompute(graph: Graph, level: str = "masks", biases: bool = False) -> Graph:
    """The graph with what `level` does not hold for the backward pass computed again there, as `X.again`.

        Y, Y.m = DO(X, seed, step)             Y, Y.m = DO(X, seed, step)
        dX = dDO(Y.m, dY)                      Y.m.again = mask(seed, step)
                                               dX = dDO(Y.m.again, dY)

    With `biases`, a bias is added to what is held once more there: as much is held, and one value less is written,
    which pays where arithmetic costs less than memory's traffic.
    Results are those of the graph as it was, random ones included. ConfigError for a level that is none.
    """
    if level not in LEVELS:
        raise ConfigError(f"recompute={level!r} is no level; choose from {', '.join(LEVELS)}")
    if level == "nothing":
        return graph
    flow = Flow(graph)
    late = {flow.root(value) for node in graph.nodes if node.meta.phase == BACKWARD for value in node.inputs}
    return _Recompute(graph, _holds(flow, late, level, biases), late).run()


def _holds(flow: Flow, late: Set[Value], level: str, biases: bool) -> Callable[[Node], bool]:
    """Whether the results of a forward node are held for the backward pass; `late` is what that reads."""
    between_products = {node for unit in find_back_to_back(flow) for node in unit.inner if node.meta.phase == FORWARD}
    #: The residual stream adds up several branches.
    stream = {node for node in flow.nodes if node.meta.phase == FORWARD and len(_branches(node, flow)) > 1}
    inside = _leading_to(stream, flow.graph)

    @cache
    def holds(node: Node) -> bool:
        branches = _branches(node, flow)
        if len(branches) == 1 < len(node.inputs):
            summed = flow.graph.producers.get(flow.root(branches[0]))
            if summed is not None and ((biases and holds(summed)) or widening(summed)):
                return False
        if level in ("selective", "full"):
            is_product = product(node) and node not in between_products
            return node in stream or node not in inside or (level == "selective" and is_product)
        if level == "attention" and node in between_products:
            return False
        if widening(node):
            return False
        if cast(node):
            source = flow.root(node.inputs[0])
            maker = flow.graph.producers.get(source)
            is_made_again = maker is not None and maker.meta.phase == FORWARD and not holds(maker)
            return source not in late and not is_made_again
        # A random result is held only where its operand would have to be held in its place.
        operands = [value for value in node.inputs if value.shape]
        return not node.operator.random or any(flow.root(value) not in late for value in operands)

    return holds


def _branches(node: Node, flow: Flow) -> list[Value]:
    """What a node adds up, biases left out; nothing if it is no sum."""
    rank = len(node.outputs[0].shape)
    return [value for value in node.inputs if node.operator.jointly_linear and len(flow.root(value).shape) == rank]


def _leading_to(targets: Set[Node], graph: Graph) -> set[Node]:
    """The nodes that `targets` are computed from, and they themselves."""
    return set(needed_nodes(graph, [value for node in targets for value in node.outputs]))


class _Recompute(Rewriter):
    def __init__(self, graph: Graph, holds: Callable[[Node], bool], late: Set[Value]) -> None:
        super().__init__(graph)
        self.holds = holds
        #: What the backward pass reads, itself or a view of it.
        self.late = late
        self.again: dict[Value, Value] = {}
        self.position = {value: i for i, value in enumerate(graph.values.values())}

    def visit(self, node: Node) -> Sequence[Value] | None:
        if node.meta.phase != BACKWARD:
            return None
        return self.copy(node, [self._held_or_again(value) for value in node.inputs])

    def _held_or_again(self, value: Value) -> Value:
        """What the backward pass reads for `value`."""
        for each in self._not_held(value):
            self._make_again(each)
        return self._current(value)

    def _current(self, value: Value) -> Value:
        """What there is of `value` in the backward pass so far."""
        return self.again.get(value, self.new[value])

    def _not_held(self, value: Value) -> list[Value]:
        """What may have to be made again to have `value`, in the order of making: as far as what is held."""
        found: dict[Value, None] = {}
        frontier = [value]
        while frontier:
            each = frontier.pop()
            node = self.graph.producers.get(each)
            if node is None or node.meta.phase != FORWARD or each in self.again or each in found:
                continue
            found[each] = None
            if self._recomputation(each) is None and (view(node) or not self._is_held(node)):
                frontier.extend(node.inputs)
        return sorted(found, key=self.position.__getitem__)

    def _make_again(self, value: Value) -> None:
        """Makes `value` again if it is not held, of operands that have been made again where they are not."""
        node, recomputation = self.graph.producers[value], self._recomputation(value)
        if recomputation is not None:
            with self.beside(
                node, f"recomputed, so that {value.name} need not be stored", phase=BACKWARD, of=node.name
            ):
                self.again[value] = recomputation(self.named_operands(node), node.attributes, value, self._name(value))
        elif value not in self.again and not self._is_held(node):
            operands, names = list(map(self._current, node.inputs)), list(map(self._name, node.outputs))
            with self.beside(node, "recomputed, so that it need not be stored", phase=BACKWARD, of=node.name):
                made = self.builder.emit(node.operator, operands, node.attributes, names)
            self.again.update(zip(node.outputs, made, strict=True))

    def _name(self, value: Value) -> str:
        return f"/{self.builder.free_name(f'{value.name}.again')}"

    def _is_held(self, node: Node) -> bool:
        """Whether a forward node's results are there: held, views of what is, or received, for ranks meet once."""
        if view(node):
            return node.inputs[0] not in self.again
        is_number = not any(value.shape for value in node.outputs)
        return self.holds(node) or collective(node) or is_number

    def _recomputation(self, value: Value) -> Recomputation | None:
        """How to make `value` without the rest of its node, the mask of dropout; None if the rest is needed, too."""
        node = self.graph.producers[value]
        output = node.inference.rule.outputs[node.outputs.index(value)].name
        needed = [each for each in node.outputs if each in self.late]
        return node.operator.recomputations.get(output) if needed == [value] or self._is_held(node) else None
