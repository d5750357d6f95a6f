"""Keeping a softmax's statistics: the gradient of a softmax, and its result made again, without sums over its rows.

    P = S(Z)                 P, top, s = S(Z)                   each row's maximum and Σ exp(Z − top) are kept
    P.again = S(Z.again)     P.again = exp(Z.again − top) / s
    dZ = dS(P, dP)           dZ = P ⊙ (dP − c)                  c = Σ O ⊙ dO in place of Σ P ⊙ dP

What is linear may change sides in an inner product: where O = L(P) and dP = Lᵀ(dO), row by row, Σ P ⊙ dP = Σ O ⊙ dO.
Attention drops some of P and multiplies by V, so that rows of S scores become rows of D_h numbers, which the backward
pass has: O where it is read for another gradient, dO because it begins there. So c is there before the scores are made
again, and one pass over them is enough; with P = S(Z) and dS it would take two, the first for what the rows add up to.

L is read off declarations: casts, and nodes with their d-nodes, which read the same beside, of operators that are
linear in an operand and make rows of rows; the last is a product, which shortens them. Results are the same to
rounding; where what is had of O is narrower than P, to its.
In attention c is the D of FlashAttention (Dao et al., 2022).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graphir.ir.collector import without_collector
from graphir.ir.gradient import GradientContext
from graphir.ir.graph import BACKWARD, Graph, Node
from graphir.ir.types import DTYPES
from graphir.ir.value import Value
from graphir.operators.cast import cast_to
from graphir.operators.split_vocabulary import row_dot
from graphir.passes.patterns import Pattern, cast, operands, product, readers, results, view
from graphir.passes.rewrite import Rewriter
from graphir.passes.value_numbering import ValueNumbering


@without_collector
def keep_softmax_statistics(graph: Graph) -> Graph:
    """The graph with softmax's gradient given its rows' inner products, and statistics kept for what is made again.

        O = matmul(P, V)                       O = matmul(P, V)
        dP = dMatmul(V, dO) {only=("dX",)}     dP = dMatmul(V, dO) {only=("dX",)}
                                               dZ.dot = row_dot(O, dO)
        dZ = dS(P, dP)                         dZ = center(P, dP, dZ.dot)

    It comes after `recompute`. Where O is made again of the very P that the gradient reads, the gradient gets a P of
    its own, for c, and so O, has to be there before; `cse` would undo that, so it comes before. Of 16-bit scores no
    sums are kept, which would be rounded to 16 bits; those, and all that is not as above, stay as they are.
    """
    plan = _Decisions(graph)
    return _Keeping(graph, plan).run() if plan.dots else graph


# -- finding ----------------------------------------------------------------------------------------------

_relays = view | cast
#: A view that keeps every element once.
_invertible = Pattern(lambda node: node.operator.inverse is not None)


@dataclass(frozen=True)
class _Dot:
    """A row's inner product: of O, the result of `maker`, and dO.

    held    what the backward pass has: O itself, a cast or a view of it
    views   the views that made it of O
    taken   the d-node of `maker`, which takes dO to scores
    """

    maker: Node
    held: Value
    views: tuple[Node, ...]
    gradient: Value
    taken: Node


class _Sides(NamedTuple):
    """Two rows with the inner product of X and dX: what `node` makes of X, and of what its d-node makes dX."""

    node: Node
    d_node: Node
    result: Value
    gradient: Value


class _Decisions:
    """What is to be done with which node.

    dots    each softmax gradient that is given inner products
    own     the nodes that those gradients need made once more, for themselves
    keeps   the softmax whose statistics are kept, for each that makes the same result again
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.numbering = graph, ValueNumbering(graph)
        self._index = {node: position for position, node in enumerate(graph.nodes)}
        #: Who reads a value or one that is the same.
        self._readers: dict[Value, dict[Node, None]] = {}
        for node in graph.nodes:
            for value in node.inputs:
                self._readers.setdefault(self.numbering.leader(value), {})[node] = None
        self.dots: dict[Node, _Dot] = {}
        self.own: set[Node] = set()
        self.keeps: dict[Node, Node] = {}
        for node in graph.nodes:
            dot = self._find(node) if node.operator.given_dot is not None else None
            if dot is not None:
                self.dots[node] = dot
                self._keep(graph.producers.get(node.inputs[0]), dot)

    def _find(self, node: Node) -> _Dot | None:
        """Where the inner products of dS's P and dP may be had of shorter rows."""
        P, dP = node.inputs
        if DTYPES[P.dtype] < DTYPES["float32"]:
            return None
        found = self._other_side(P, dP)
        while found is not None and not product(found.node):
            found = self._other_side(found.result, found.gradient)
        if found is None or not (_is_settled(P, dP) and _is_settled(found.result, found.gradient)):
            return None
        for each in self.numbering.congruent(found.result):
            held = self._held(each, self._index[found.d_node])
            if held is not None:
                return _Dot(self.graph.producers[each], *held, found.gradient, found.d_node)
        return None

    def _other_side(self, X: Value, dX: Value) -> _Sides | None:
        """Other rows with the inner product of these."""
        d_node = self.graph.producers.get(dX)
        while d_node is not None and cast(d_node):
            dX = d_node.inputs[0]
            d_node = self.graph.producers.get(dX)
        if d_node is None:
            return None
        sides = (self._sides(node, of, d_node, dX) for node, of in self._readers_of(X))
        return next((each for each in sides if each is not None), None)

    def _readers_of(self, X: Value) -> Iterator[tuple[Node, Value]]:
        """The nodes that read X or a cast of it, or what is the same, with what they read."""
        frontier = [self.numbering.leader(X)]
        while frontier:
            each = frontier.pop()
            for node in self._readers.get(each, ()):
                if cast(node):
                    frontier.append(self.numbering.leader(node.outputs[0]))
                else:
                    yield node, each

    def _sides(self, node: Node, X: Value, d_node: Node, dX: Value) -> _Sides | None:
        """The sides, if `node` makes rows of rows X, linear in them, and dX is what `d_node` makes as its d-node."""
        rule, d_rule = node.inference.rule, d_node.inference.rule
        made = d_rule.outputs[d_node.outputs.index(dX)].name
        of = {f"d{operand.name}": operand for operand in rule.inputs}
        if d_node.operator.d_operator_of is not node.operator or made not in of:
            return None
        operand, upstream = of[made], {f"d{result.name}": result for result in rule.outputs}
        values = operands(node) | results(node)
        if operand.name not in node.operator.linear or self.numbering.leader(values[operand.name]) is not X:
            return None
        needed = d_node.operator.dependencies(d_rule, (made,))
        read = {name: value for name, value in operands(d_node).items() if name in needed}
        arrived = [name for name in read if name in upstream]
        if len(arrived) != 1 or not _alike(node, d_node):
            return None
        dY, result = read.pop(arrived[0]), upstream[arrived[0]]
        rows, result_rows = ([axis.factors for axis in each.axes[:-1]] for each in (operand, result))
        same = all(self.numbering.leader(values[name]) is self.numbering.leader(value) for name, value in read.items())
        return _Sides(node, d_node, values[result.name], dY) if same and rows == result_rows else None

    def _held(self, value: Value, before: int) -> tuple[Value, tuple[Node, ...]] | None:
        """What the backward pass computes with of `value`, itself or a view or cast of it, made before that node.

        With it the views between, first to last. Who only casts it would do without it.
        """
        maker = self.graph.producers.get(value)
        if maker is not None and self._index[maker] >= before:
            return None
        found = readers(self.graph, value)
        if any(reader.meta.phase == BACKWARD and not _relays(reader) for reader in found):
            return value, ()
        for reader in (*filter(_invertible, found), *filter(cast, found)):
            held = self._held(reader.outputs[0], before)
            if held is not None:
                return held[0], (reader, *held[1]) if view(reader) else held[1]
        return None

    def _keep(self, maker: Node | None, dot: _Dot) -> None:
        """Has statistics kept for P, which `maker` makes for the gradient, if it makes it again."""
        if maker is None or maker.operator.with_statistics is None:
            return
        scores = self._between(maker, dot.maker)
        if scores:
            self.own |= scores
            self.keeps[maker] = maker
            return
        first = self.graph.producers[self.numbering.leader(maker.outputs[0])]
        if first is not maker:
            self.keeps[maker] = first

    def _between(self, maker: Node, last: Node) -> set[Node]:
        """What is as large as P between the product that makes scores and `last`, which makes O of them in the end.

        Nothing, unless the backward pass makes O of the very P that `maker` makes.
        """
        dims, found = Counter(maker.outputs[0].shape), set[Node]()
        frontier = list(last.inputs)
        while frontier:
            node = self.graph.producers.get(frontier.pop())
            is_new = node is not None and node not in found and node.meta.phase == BACKWARD
            if node is not None and is_new and Counter(node.outputs[0].shape) == dims:
                found.add(node)
                if not product(node):
                    frontier.extend(node.inputs)
        return found if maker in found else set()


def _alike(node: Node, d_node: Node) -> bool:
    """Whether a d-node has the attributes of the node; to which dtype each rounds is its own affair."""
    shared = d_node.operator.attributes.keys() & node.operator.attributes.keys() - {node.operator.accumulates}
    return all(d_node.attributes[name] == node.attributes[name] for name in shared)


def _is_settled(X: Value, dX: Value) -> bool:
    """Whether the two lie alike and neither is a sum that ranks have yet to form."""
    layout = X.type.layout
    return not layout.pending and layout == dX.type.layout


# -- rewriting --------------------------------------------------------------------------------------------


class _Keeping(Rewriter):
    def __init__(self, graph: Graph, plan: _Decisions) -> None:
        super().__init__(graph)
        self.plan = plan
        self.keeping = frozenset(plan.keeps.values())
        self.taken = {dot.taken: dot for dot in plan.dots.values()}
        #: Maximum and sum of the rows, by who keeps them.
        self.statistics: dict[Node, tuple[Value, Value]] = {}
        #: What the gradients have for themselves of what `plan.own` makes.
        self.own: dict[Value, Value] = {}
        #: Who has to do with O only, and reads what it is made of.
        self.inside = plan.own | {dot.maker for dot in plan.dots.values()}

    def visit(self, node: Node) -> Sequence[Value]:
        if node in self.taken:
            # Scores come before what is made of dO: in the order in which the forward pass has them.
            self._read(self.taken[node].maker.inputs[0])
        if node in self.keeping:
            return self._keep(node)
        if node in self.plan.keeps:
            return self._make_again(node, self.new[node.inputs[0]], node.name)
        if node in self.plan.dots:
            return self._give(node, self.plan.dots[node])
        return self.copy(node, [self.new[value] if node in self.inside else self._read(value) for value in node.inputs])

    def _keep(self, node: Node) -> Sequence[Value]:
        """The softmax, with its statistics."""
        operator = node.operator.with_statistics
        assert operator is not None
        P, top, s = self.replace(node, operator, self.operands(node), node.attributes)
        self.statistics[node] = top, s
        return [P]

    def _make_again(self, node: Node, Z: Value, name: str) -> Sequence[Value]:
        """What the softmax `node` makes, of Z and the statistics kept for it."""
        operator = node.operator.from_statistics
        assert operator is not None
        return self.replace(node, operator, (Z, *self.statistics[self.plan.keeps[node]]), names=[name])

    def _give(self, node: Node, dot: _Dot) -> Sequence[Value]:
        """dS, given inner products."""
        operator = node.operator.given_dot
        assert operator is not None
        P, dP = map(self._read, node.inputs)
        with self.beside(node, f"its rows' inner product is that of {dot.maker.name} and its gradient"):
            pair = [cast_to(each, P.dtype) for each in (self._undone(dot), self.new[dot.gradient])]
            c = row_dot(*pair, name=f"/{self.builder.free_name(f'{node.name}.dot')}")
        return self.replace(node, operator, [P, dP, c])

    def _undone(self, dot: _Dot) -> Value:
        """O as a view of what is held: a view that only rearranges is undone by its gradient."""
        value = self.new[dot.held]
        for node in reversed(dot.views):
            name = f"/{self.builder.free_name(f'{node.inputs[0].name}.held')}"
            of = (node.inference, node.inputs, node.outputs, node.attributes)
            (found,) = node.operator.differentiate(GradientContext(*of, (value,), (name,)))
            assert found is not None
            value = found
        return value

    def _read(self, value: Value) -> Value:
        """What a node that has nothing to do with O reads for `value`."""
        node = self.graph.producers.get(value)
        if node not in self.plan.own:
            return self.new[value]
        if value not in self.own:
            assert node is not None
            operands = [self._read(each) for each in node.inputs]
            names = [self.builder.free_name(each.name) for each in node.outputs]
            if node in self.plan.keeps:
                made = self._make_again(node, operands[0], names[0])
            else:
                made = self.replace(node, node.operator, operands, node.attributes, names=names)
            self.own.update(zip(node.outputs, made, strict=True))
        return self.own[value]
