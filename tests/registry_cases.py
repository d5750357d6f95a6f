"""Graphs of one node with random shapes and content: what the generic tests over the registry run on.

A *case* is one application of an operator, its operands the graph's inputs, each named as in the signature;
sizes 1 to 5, `*b` of rank 0 to 2, `X...` of 1 to 3 operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.ir.dims import product
from graphir.ir.operator import Operator
from graphir.ir.signature import Operand, Signature, expand
from graphir.operators import IGNORE

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.1, 1.0, shape)


def _away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal, but no closer to 0 than 0.05: relu has a kink there, which finite differences must not cross."""
    x = rng.standard_normal(shape)
    return x + np.copysign(0.05, x)


#: Operands that cannot be any float: probabilities, squares.
DOMAINS: Mapping[tuple[str, str], Draw] = {
    ("TOPk", "P"): _positive,
    ("clip", "n"): _positive,
    ("Adam", "v"): _positive,
    ("AdamW", "v"): _positive,
    ("nll", "s"): _positive,
}


@dataclass(frozen=True)
class Case:
    """One node of `operator`: `graph` with its operands as inputs, and `arrays` to run it on."""

    operator: Operator
    graph: gi.Graph
    sizes: Mapping[str, int]
    arrays: Mapping[str, Array]

    @property
    def node(self) -> gi.Node:
        return self.graph.nodes[0]

    @property
    def rule(self) -> Signature:
        return self.node.inference.rule

    def run(self, **changed: Array) -> dict[str, Array]:
        """The kernel's results by the names of the signature, with some operands changed."""
        results = gi.compile(self.graph, self.sizes)({**self.arrays, **changed})
        return {o.name: results[value.name] for o, value in zip(self.rule.outputs, self.node.outputs, strict=True)}

    def redraw(self, name: str, seed: int) -> Array:
        """Other content for the operand `name`, with the same shape, dtype and domain."""
        operand = next(o for o in self.rule.inputs if o.name == name)
        rng = np.random.default_rng([seed, 7])
        return _draw_array(self.operator, operand, self.graph[name], self.node, self.sizes, rng)

    def __str__(self) -> str:
        return f"{self.node!r} with {dict(self.sizes)}, {dict(self.node.attributes)}"


# -- drawing ----------------------------------------------------------------------------------------------


def cases(operator: Operator, dtype: str = "float64", count: int = 3, seed: int = 0) -> Iterator[Case]:
    """`count` cases for each example of the operator and each alternative of its signature."""
    for index, example in enumerate(operator.examples):
        for form in range(len(operator.signatures(operator.normalize(example)))):
            for repeat in range(count):
                yield draw_case(operator, example, form, dtype, np.random.default_rng([seed, index, form, repeat]))


def draw_case(
    operator: Operator,
    attributes: Mapping[str, Any],
    form: int,
    dtype: str,
    rng: np.random.Generator,
) -> Case:
    """A case with random sizes and content; `attributes` may restrict the outputs (`only`)."""
    normal = operator.normalize(attributes)
    declared = operator.signatures(normal)[form]
    rank, spare = int(rng.integers(0, 3)), int(rng.integers(1, 4))
    ranks: list[int] = []
    for operand in declared.inputs:
        fixed = sum(not axis.star for axis in operand.axes)
        starred = rank if fixed < len(operand.axes) else 0
        ranks.extend([fixed + starred] * (spare if operand.variadic else 1))
    rule = expand(declared, tuple(ranks))
    assert rule is not None, f"{declared} does not expand to ranks {ranks}"

    factors = dict(operator._given_factors(normal))
    for factor in rule.factors:
        factors.setdefault(factor, gi.dim(f"n_{factor.replace('.', '_')}"))
    builder = gi.Builder("case", dtype=dtype)
    values = []
    for operand in rule.inputs:
        shape = tuple(product(factors[f] for f in axis.factors) for axis in operand.axes)
        values.append(builder.input(operand.name, shape, _dtype(operand, dtype)))
    outputs = operator.all(*values, builder=builder, **attributes)
    graph = builder.build(*outputs)
    names = sorted(frozenset[str]().union(*(each.names for each in (*factors.values(), *graph.dims))))
    numbers = {name: int(rng.integers(1, 6)) for name in names}
    used = {name for each in (*graph.dims, *_size_attributes(graph.nodes[0])) for name in each.names}
    sizes = {name: size for name, size in numbers.items() if name in used}
    arrays = {
        value.name: _draw_array(operator, operand, value, graph.nodes[0], sizes, rng)
        for operand, value in zip(rule.inputs, values, strict=True)
    }
    return Case(operator, graph, sizes, arrays)


def _size_attributes(node: gi.Node) -> list[gi.Dim]:
    return [value for value in node.attributes.values() if isinstance(value, gi.Dim)]


def _dtype(operand: Operand, dtype: str) -> str:
    if operand.dtype in ("bool", "text"):
        return operand.dtype
    return "int64" if operand.dtype == "int" or operand.indexes else dtype


def _draw_array(
    operator: Operator,
    operand: Operand,
    value: gi.Value,
    node: gi.Node,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
) -> Array:
    shape = tuple(each.size(sizes) for each in value.shape)
    if operand.indexes:
        ids = rng.integers(0, node.inference.factors[operand.indexes].size(sizes), shape)
        if "ignore" in node.attributes:
            ids = np.where(rng.random(shape) < 0.2, IGNORE, ids)
        return np.asarray(ids)
    if value.dtype == "int64":
        return np.asarray(rng.integers(0, 9, shape))
    if value.dtype == "bool":
        return np.asarray(rng.random(shape) < 0.6)
    if value.dtype == "text":
        return np.array(["".join(rng.choice(list("aé×z ")) for _ in range(5)) for _ in range(shape[0])], object)
    draw = DOMAINS.get((operator.key, operand.name), _away_from_zero)
    return np.asarray(draw(rng, shape)).astype(value.dtype)


# -- comparing --------------------------------------------------------------------------------------------


def same_bits(left: Any, right: Any) -> bool:
    """Whether two arrays agree in dtype, shape and every bit, so that NaN equals itself and 0 is not −0."""
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def distance(left: Any, right: Any) -> float:
    """‖left − right‖ / ‖right‖; the norm of the difference itself where the right one is 0."""
    difference, norm = float(np.linalg.norm(np.subtract(left, right))), float(np.linalg.norm(right))
    return difference / norm if norm else difference
