"""Memory over a step, by what it is for: parameters, gradients, optimizer state, activations kept, temporaries.

Nodes run in order, and each value is freed after its last reader. A view (T, R, BC) is the memory of what it shows; an
update writes over what it updates, as training has it, which is counted once. Nothing is fused: what passes between
the nodes that a compiler fuses is there, as an interpreter has it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from graphir.ir.analysis import last_uses
from graphir.ir.dims import Sizes
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph
from graphir.ir.layout import local_shape
from graphir.ir.types import DTYPES, TensorType
from graphir.ir.value import Value, gradient_name

PARAMETERS, GRADIENTS, STATE = "parameters", "gradients", "optimizer state"
KEPT, TEMPORARY, INPUTS = "activations kept", "temporaries", "inputs"
#: What memory is for, as it is told.
CATEGORIES = (PARAMETERS, GRADIENTS, STATE, KEPT, TEMPORARY, INPUTS)

#: The number of a layer.
_NUMBER = re.compile(r"(?<=\blayer)\d+")


@dataclass(frozen=True)
class Moment:
    """Bytes at one moment of a step, by category and by name, those of layers together: `layer*/mha/AS`."""

    categories: Mapping[str, int]
    values: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """All together."""
        return sum(self.categories.values())

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The values that take most, the most first."""
        return sorted(self.values.items(), key=lambda item: -item[1])[:count]


def of_any_layer(name: str) -> str:
    """`layer*/mha/AS` of `layer3/mha/AS`."""
    return _NUMBER.sub("*", name)


def fullest_moments(graph: Graph, sizes: Sizes) -> dict[str, Moment]:
    """The fullest moment of each kind of node, by its name in any layer; `sizes` have those of the mesh."""
    roots = _storage(graph)
    category = _categories(graph, roots)
    bytes_of: dict[TensorType, int] = {}

    def size_of(value: Value) -> int:
        found = bytes_of.get(value.type)
        if found is None:
            found = DTYPES[value.dtype]
            for dim in local_shape(value.shape, value.type.layout):
                found *= dim.size(sizes)
            bytes_of[value.type] = found
        return found

    held: Counter[str] = Counter()
    names: Counter[str] = Counter()

    def add(value: Value, sign: int) -> None:
        size = sign * size_of(value)
        held[category[value]] += size
        names[of_any_layer(value.name)] += size

    for value in graph.arguments:
        add(value, 1)
    found: dict[str, Moment] = {"the start": Moment(dict(held), dict(names))}
    most: dict[str, int] = {}
    stays = {*graph.arguments, *(roots[value] for value in graph.outputs)}
    dying = last_uses(graph.nodes, {*graph.outputs, *graph.arguments})
    left = Counter(roots[value] for dead in dying for value in dead)
    for node, dead in zip(graph.nodes, dying, strict=True):
        for value in node.outputs:
            if roots[value] is value:
                add(value, 1)
        at, now = of_any_layer(node.name), sum(held.values())
        if now > most.get(at, -1):
            most[at] = now
            found[at] = Moment(dict(held), {name: size for name, size in names.items() if size})
        for value in dead:
            root = roots[value]
            left[root] -= 1
            if not left[root] and root not in stays:
                add(root, -1)
    return found


def _storage(graph: Graph) -> dict[Value, Value]:
    """The value whose memory each value lies in: itself, what it is a view of, or what it is written over."""
    found = {value: value for value in graph.arguments}
    for node in graph.nodes:
        over = {new: old for old, new in node.updates}
        for value in node.outputs:
            of = node.inputs[0] if node.operator.view else over.get(value)
            found[value] = found[of] if of is not None else value
    return found


def _categories(graph: Graph, roots: Mapping[Value, Value]) -> dict[Value, str]:
    """What each value with memory of its own is for."""
    found = dict.fromkeys(graph.inputs, INPUTS) | dict.fromkeys(graph.state, STATE)
    found |= dict.fromkeys(graph.parameters, PARAMETERS)
    gradients = {graph.find(gradient_name(value.name)) for value in graph.parameters}
    kept = {roots[value] for node in graph.nodes if node.meta.phase == BACKWARD for value in node.inputs}
    for node in graph.nodes:
        # What is done to a gradient before the update, in ranks' meetings and in clipping, is that gradient still.
        of_gradient = node.operator.relayout is not None or node.meta.phase == UPDATE
        for value in node.outputs:
            shaped = any(each in gradients and each.shape == value.shape for each in node.inputs)
            if value in gradients or (of_gradient and shaped and roots[value] is value):
                gradients.add(value)
                found.setdefault(value, GRADIENTS)
            elif node.meta.phase == FORWARD and value in kept:
                found.setdefault(value, KEPT)
            else:
                found.setdefault(value, TEMPORARY)
    return found
