"""Unfolding: the nodes that fused nodes hold, back in the graph under their own names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphir.ir.attributes import Attributes
from graphir.ir.graph import Graph, Meta, Node
from graphir.ir.operator import Operator
from graphir.ir.value import Value
from graphir.passes.rewrite import Rewriter


def unfuse(graph: Graph) -> Graph:
    """The graph with every fused node replaced by the graph it holds, and by those that are held in there.

        A = fused(X) {anchor="X", rows=2}      H = exp(X)
          H = exp(X)                           A = GL(H)
          A = GL(H)

    Views that several fused nodes hold for themselves come back once. What fused nodes hold has names of its own, which
    may be those of other values outside: the graph's own values keep theirs, the others make room.
    """
    if not any(node.body for node in graph.nodes):
        return graph
    return _Unfolding(graph).run()


@dataclass(frozen=True, slots=True)
class _Placed:
    """A node of the graph to be, its operands and results by their numbers in it."""

    operator: Operator
    operands: tuple[int, ...]
    attributes: Attributes
    outputs: tuple[Value, ...]
    numbers: tuple[int, ...]
    meta: Meta


class _Unfolding:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.placed: list[_Placed] = []
        #: What has been placed already, by all that tells it from others.
        self.known: dict[tuple[object, ...], tuple[int, ...]] = {}
        self.makers: dict[int, _Placed] = {}
        #: The number of each value of the graph.
        self.numbers = {value: number for number, value in enumerate(graph.arguments)}
        self.count = len(self.numbers)
        #: Its name there, of the graph's own values.
        self.names = {number: value.name for value, number in self.numbers.items()}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self._place(node, self.numbers)
            for value in node.outputs:
                self._name(value)
        return self._build()

    def _place(self, node: Node, numbers: dict[Value, int]) -> None:
        """Places a node, or those that it holds; `numbers` are those of the values where it stands."""
        body, operands = node.body, tuple([numbers[value] for value in node.inputs])
        if body is None:
            numbers.update(zip(node.outputs, self._add(node, operands), strict=True))
            return
        inside = dict(zip(body.inputs, operands, strict=True))
        for inner in body.nodes:
            self._place(inner, inside)
        numbers.update(zip(node.outputs, (inside[value] for value in body.outputs), strict=True))

    def _add(self, node: Node, operands: tuple[int, ...]) -> tuple[int, ...]:
        key = (node.operator, operands, node.attributes, *((value.name, value.type.text) for value in node.outputs))
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = tuple(range(self.count, self.count + len(node.outputs)))
            self._append(_Placed(node.operator, operands, node.attributes, node.outputs, found, node.meta))
        return found

    def _append(self, placed: _Placed) -> None:
        self.placed.append(placed)
        self.makers.update(dict.fromkeys(placed.numbers, placed))
        self.count += len(placed.numbers)

    def _name(self, value: Value) -> None:
        """Keeps the name of one of the graph's own values; what leaves by a second name is made a second time."""
        number = self.numbers[value]
        if self.names.setdefault(number, value.name) != value.name:
            maker = self.makers[number]
            again = tuple(range(self.count, self.count + len(maker.numbers)))
            self._append(replace(maker, numbers=again))
            number = self.numbers[value] = again[maker.numbers.index(number)]
            self.names[number] = value.name

    def _build(self) -> Graph:
        rewriter = Rewriter(self.graph)
        values = dict(enumerate(rewriter.new.values()))
        taken = {*self.names.values(), *self.graph.aliases}
        for each in self.placed:
            outputs = [
                (self.names.get(number) or _free(value.name, taken), value.type)
                for number, value in zip(each.numbers, each.outputs, strict=True)
            ]
            operands = [values[number] for number in each.operands]
            made = rewriter.builder.declare(each.operator, operands, each.attributes, outputs, each.meta)
            values.update(zip(each.numbers, made.outputs, strict=True))
        rewriter.new.update((value, values[number]) for value, number in self.numbers.items())
        return rewriter.build()


def _free(name: str, taken: set[str]) -> str:
    """`name`, or, where that is taken, one made of it; taken from then on."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}.{count}"
    taken.add(found)
    return found
