"""All that a step costs one rank: elements, FLOPs, bytes sent, and memory at its fullest moment.

Costs are sums over layers. Of a model whose layers are alike, that of many layers follows from that of a few, by what
one layer more adds: `extrapolate`, which is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from graphir.cost.causal import spared_flops
from graphir.cost.communication import axes_of, collective_cost, mesh_sizes
from graphir.cost.compute import alike, count_elements, count_flops, node_flops, plain_nodes
from graphir.cost.lifetimes import Moment, fullest_moments
from graphir.cost.polynomial import Polynomial
from graphir.ir.dims import Sizes
from graphir.ir.graph import BACKWARD, FORWARD, UPDATE, Graph

PHASES = (FORWARD, BACKWARD, UPDATE)

_Number = TypeVar("_Number", int, Fraction)


@dataclass(frozen=True)
class StepCost:
    """What a step costs.

    elements   of parameters and of optimizer state, as formulas
    flops      of each pass, as formulas
    operators  FLOPs by operator
    spared     FLOPs of what a causal mask hides, which `flops` count and which need not be computed
    sent       bytes that a rank sends in a ring, by collective, axes and pass
    moments    memory at each kind of node, the most of all layers
    """

    elements: Mapping[str, Polynomial]
    flops: Mapping[str, Polynomial]
    operators: Mapping[str, int]
    spared: int
    sent: Mapping[str, Fraction]
    moments: Mapping[str, Moment]

    @property
    def fullest(self) -> str:
        """The node at which most memory is needed, a layer's without its number."""
        return max(self.moments, key=lambda at: self.moments[at].bytes)

    @property
    def memory(self) -> Moment:
        """What is there at the fullest moment."""
        return self.moments[self.fullest]


def step_cost(graph: Graph, sizes: Sizes) -> StepCost:
    """What a run of `graph` costs one rank; DimError if a dim has no size."""
    complete = mesh_sizes(graph, sizes)
    operators: Counter[str] = Counter()
    for node, times in alike(plain_nodes(graph)):
        operators[node.operator.key] += times * int(node_flops(node).number(complete))
    return StepCost(
        {"parameters": count_elements(graph.parameters), "optimizer state": count_elements(graph.state)},
        {phase: count_flops(graph, phase) for phase in PHASES},
        dict(operators),
        spared_flops(graph, complete),
        _sent(graph, complete),
        fullest_moments(graph, complete),
    )


def _sent(graph: Graph, sizes: Sizes) -> dict[str, Fraction]:
    """Bytes that one rank sends, ring algorithm, by collective, axes and pass."""
    found: dict[str, Fraction] = {}
    collectives = [node for node in graph.nodes if node.operator.relayout is not None]
    for node, times in alike(collectives, by_phase=True):
        amount = collective_cost(node, graph.mesh).each.number(sizes) * times
        if amount:
            kind = f"{node.operator.key} over {' and '.join(axes_of(node))}, {node.meta.phase}"
            found[kind] = found.get(kind, Fraction(0)) + amount
    return found


def extrapolate(build: Callable[[int], StepCost], layers: int, period: int = 1) -> StepCost:
    """The cost of a model of so many layers, from those of a few, which `build` makes: each period more adds the same.

    The first and the last layer may have more to do than those between: there are always two periods at least.
    """
    few = period + (layers - 1) % period + 1
    if layers <= few + period:
        return build(layers)
    one, two = build(few), build(few + period)
    more = (layers - few) // period

    def line(first: Mapping[str, _Number], second: Mapping[str, _Number]) -> dict[str, _Number]:
        nothing: Any = 0
        pairs = {name: (first.get(name, nothing), second.get(name, nothing)) for name in (*first, *second)}
        return {name: start + (end - start) * more for name, (start, end) in pairs.items()}

    def formulas(first: Mapping[str, Polynomial], second: Mapping[str, Polynomial]) -> dict[str, Polynomial]:
        return {name: first[name] + (second[name] + first[name] * -1) * more for name in first}

    return StepCost(
        formulas(one.elements, two.elements),
        formulas(one.flops, two.flops),
        line(one.operators, two.operators),
        one.spared + (two.spared - one.spared) * more,
        line(one.sent, two.sent),
        {
            at: Moment(line(one.moments[at].categories, moment.categories), line(one.moments[at].values, moment.values))
            for at, moment in two.moments.items()
            if at in one.moments
        },
    )
