"""Value numbering: which values of a graph are the same, computed twice, as what recomputation makes again is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from graphir.ir.builder import Builder
from graphir.ir.gradient import Recomputation
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes.patterns import operands, results

#: Operator, operands and attributes.
_Key: TypeAlias = tuple[object, ...]


class ValueNumbering:
    """Values by what they are computed from, whatever they are called and whichever phase makes them.

    Congruent are those of the same operator, congruent operands and attributes, and with them the key of a random node;
    so is a mask that is made again without the rest of its node. The first of them is their leader.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._leaders: dict[Value, Value] = {value: value for value in graph.arguments}
        self._classes: dict[Value, list[Value]] = {}
        known: dict[_Key, tuple[Value, ...]] = {}
        for node in graph.nodes:
            leaders = known.setdefault(self._key(node, node.inputs), node.outputs)
            self._leaders.update(zip(node.outputs, leaders, strict=True))
            for name, value in results(node).items():
                self._classes.setdefault(self._leaders[value], []).append(value)
                alone = node.operator.recomputations.get(name)
                if alone is not None:
                    known.setdefault(self._key_alone(node, value, alone), (self._leaders[value],))

    def leader(self, value: Value) -> Value:
        """The first that is congruent to `value`: one for all of them."""
        return self._leaders[value]

    def congruent(self, value: Value) -> Sequence[Value]:
        """All that are congruent to `value`, which a node makes, in order."""
        return self._classes[self._leaders[value]]

    def _key(self, node: Node, read: Sequence[Value]) -> _Key:
        return node.operator, tuple([self._leaders[value] for value in read]), node.attributes

    def _key_alone(self, node: Node, value: Value, alone: Recomputation) -> _Key:
        """The key of what makes `value` again without the rest of `node`."""
        scratch = Builder("alone", mesh=self.graph.mesh)
        types = {each: each.type for each in node.inputs}
        given = {each: scratch.input(f"/{each.name}", of.shape, of.dtype, of.layout) for each, of in types.items()}
        read = {name: given[each] for name, each in operands(node).items()}
        made = alone(read, node.attributes, value, f"/{value.name}")
        (maker,) = (each for each in scratch.nodes if made in each.outputs)
        own = {each: value for value, each in given.items()}
        return self._key(maker, [own[each] for each in maker.inputs])
