"""What is stored: of a value and the views of it, the one that passes from one unit to others."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.ir.graph import Node
from graphir.ir.value import Value
from graphir.passes.fuse.units import Flow
from graphir.passes.patterns import collective, product, view


class Stored:
    """For every value that no view made: the view of it, or itself, that is stored and that other units read."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._outputs = frozenset(flow.graph.outputs)
        self._chosen = {value: self._choose(value) for node in flow.nodes for value in node.outputs}

    def __getitem__(self, value: Value) -> Value:
        """What is stored of a value that a node made."""
        return self._chosen[value]

    def views_to(self, value: Value) -> Sequence[Node]:
        """The views that make `value` of what is stored."""
        root, views = self.flow.root(value), self.flow.views(value)
        return views[len(self.flow.views(self._chosen.get(root, root))) :]

    def _choose(self, value: Value) -> Value:
        """Of a value and the views that alone read it, one by one: the one with the fewest dims.

        Merged dims can be had from it without a copy, and it from them; the other way round not always. Between a
        value and its transpose, contractions do not mind which they get, all else had rather read rows. Results, and
        what is sent to other ranks, are stored as they are read; what was received, as it came.
        """
        path = self._path(value)
        last, maker = path[-1], self.flow.graph.producers[value]
        if len(path) == 1 or collective(maker):
            return value
        readers = self.flow.readers(last)
        if last in self._outputs or any(map(collective, readers)):
            return last
        least = min(len(each.shape) for each in path)
        if least < len(value.shape):
            return next(each for each in path if len(each.shape) == least)
        if product(maker) and readers and not any(map(product, readers)):
            return next(each for each in reversed(path) if len(each.shape) == least)
        return value

    def _path(self, value: Value) -> list[Value]:
        """The value, and view by view what alone reads it."""
        path = [value]
        uses = self.flow.graph.uses
        while path[-1] not in self._outputs and len(uses[path[-1]]) == 1:
            ((node, _),) = uses[path[-1]]
            if not view(node) or self.flow.root(node.outputs[0]) is not self.flow.root(value):
                break
            path.append(node.outputs[0])
        return path
