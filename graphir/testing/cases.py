"""Graphs of one node with random shapes and content: what the checks of an operator run on.

A *case* is one application of an operator, its operands the graph's inputs, each named as in the signature;
sizes 1 to 5, `*b` of rank 0 to 2, `X...` of 1 to 4 operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.errors import DimError, GraphirError, OperatorError
from graphir.ir.dims import product
from graphir.ir.infer import given_factors
from graphir.ir.operator import Operator
from graphir.ir.signature import Operand, Signature, expand
from graphir.ir.traits import Positive
from graphir.ir.types import INTEGERS

Array: TypeAlias = NDArray[Any]
#: Content of a shape: `draw(rng, (2, 3))` is an array [2, 3] of floats.
Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], Array]


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers from 0.1 to 1: probabilities, squares, what a logarithm or a root is taken of."""
    return rng.uniform(0.1, 1.0, shape)


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal, but no closer to 0 than 0.05: relu has a kink there, which finite differences must not cross."""
    x = rng.standard_normal(shape)
    return x + np.copysign(0.05, x)


@dataclass(frozen=True)
class Case:
    """One node of `operator`: `graph` with its operands as inputs, `arrays` to run it on, `domains` to draw others."""

    operator: Operator
    graph: gi.Graph
    sizes: Mapping[str, int]
    arrays: Mapping[str, Array]
    domains: Mapping[str, Draw] = field(default_factory=dict)

    @property
    def node(self) -> gi.Node:
        """The one node."""
        return self.graph.nodes[0]

    @property
    def rule(self) -> Signature:
        """The node's rule: the operator's signature for these ranks."""
        return self.node.inference.rule

    def run(self, **changed: Array) -> dict[str, Array]:
        """The kernel's results by the names of the signature, with some operands changed.

        AssertionError if the kernel fails.
        """
        results = run(self.graph, self.sizes, {**self.arrays, **changed}, str(self))
        return {o.name: results[value.name] for o, value in zip(self.rule.outputs, self.node.outputs, strict=True)}

    def redraw(self, name: str, seed: int) -> Array:
        """Other content for the operand `name`, with the same shape, dtype and domain."""
        operand = next(o for o in self.rule.inputs if o.name == name)
        rng = np.random.default_rng([seed, 7])
        return _draw_array(operand, self.graph[name], self.node, self.sizes, self.domains, rng)

    def __str__(self) -> str:
        attributes = f", {dict(self.node.attributes)}" if self.node.attributes else ""
        return f"{self.node!r} with {dict(self.sizes)}{attributes}"


def require(holds: bool, complaint: str) -> None:
    """AssertionError unless it holds: an `assert` that stays under `python -O`, and reads the same in any runner."""
    if not holds:
        raise AssertionError(complaint)


def run(graph: gi.Graph, sizes: Mapping[str, int], arrays: Mapping[str, Any], what: str, **options: Any) -> Any:
    """The results of `graph`, `options` to `gi.compile`; AssertionError, naming `what`, if a kernel fails."""
    executable = gi.compile(graph, sizes, backend="reference", **options)
    try:
        return executable(arrays)
    except OperatorError as error:
        raise AssertionError(f"{what}: {error}") from error
    except GraphirError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: a kernel failed, {type(error).__name__}: {error}") from error


# -- drawing ----------------------------------------------------------------------------------------------


def cases(
    operator: Operator,
    dtype: str = "float64",
    count: int = 3,
    seed: int = 0,
    domains: Mapping[str, Draw] | None = None,
) -> Iterator[Case]:
    """`count` cases for each example of the operator and each alternative of its signature.

    `domains` says by an operand's name how its floats are drawn, where not any float will do.

    Sizes take turns: of five cases each dim has every size once, in an order of its own, so that what is wrong for one
    size only is seen.
    """
    for index, example in enumerate(operator.examples):
        for form in range(len(operator.signatures(operator.normalize(example)))):
            for turn in range(count):
                rng = np.random.default_rng([seed, index, form, turn])
                pick = partial(_in_turn, (seed, index, form), turn)
                yield draw_case(operator, example, form, dtype, rng, domains, pick)


def _in_turn(seed: tuple[int, ...], turn: int, name: str, count: int) -> int:
    """A number below `count`, a different one at each of as many turns."""
    return int(np.random.default_rng([*seed, *name.encode()]).permutation(count)[turn % count])


def draw_case(
    operator: Operator,
    attributes: Mapping[str, Any],
    form: int,
    dtype: str,
    rng: np.random.Generator,
    domains: Mapping[str, Draw] | None = None,
    pick: Callable[[str, int], int] | None = None,
) -> Case:
    """A case with random content and width of integers; `attributes` may restrict the outputs (`only`).

    `pick` says how large what has a name is, as a number below a bound; without it, that is random, too.
    """
    pick = pick or (lambda name, count: int(rng.integers(count)))
    normal = operator.normalize(attributes)
    declared = operator.signatures(normal)[form]
    rank, spare = pick("*", 3), 1 + pick("...", 4)
    ranks: list[int] = []
    for operand in declared.inputs:
        fixed = sum(not axis.star for axis in operand.axes)
        starred = rank if fixed < len(operand.axes) else 0
        ranks.extend([fixed + starred] * (spare if operand.variadic else 1))
    rule = expand(declared, tuple(ranks))
    if rule is None:
        raise OperatorError(f"operator {operator.key}: {declared} does not expand to operands of ranks {ranks}")

    factors = {**rule.literals, **given_factors(operator, normal)}
    for factor in rule.factors:
        factors.setdefault(factor, gi.dim(f"n_{factor.replace('.', '_')}"))
    builder = gi.Builder("case", dtype=dtype)
    integers = str(rng.choice(sorted(INTEGERS))) if any(map(_is_integer, rule.inputs)) else ""
    values = []
    for operand in rule.inputs:
        shape = tuple(product(factors[f] for f in axis.factors) for axis in operand.axes)
        own = integers if _is_integer(operand) else operand.dtype if operand.dtype in ("bool", "text") else dtype
        values.append(builder.input(operand.name, shape, own))
    outputs = operator.all(*values, builder=builder, **attributes)
    graph = builder.build(*outputs)
    names = sorted(frozenset[str]().union(*(each.names for each in (*factors.values(), *graph.dims))))
    numbers = {name: 1 + pick(name, 5) for name in names}
    for _ in range(100):
        if _are_allowed(graph.nodes[0], numbers):
            break
        numbers = {name: int(rng.integers(1, 6)) for name in names}
    used = {name for each in (*graph.dims, *_size_attributes(graph.nodes[0])) for name in each.names}
    sizes = {name: size for name, size in numbers.items() if name in used}
    above_zero = operator.trait(Positive)
    known = {**dict.fromkeys(above_zero.names if above_zero else (), positive), **(domains or {})}
    arrays = {
        value.name: _draw_array(operand, value, graph.nodes[0], sizes, known, rng)
        for operand, value in zip(rule.inputs, values, strict=True)
    }
    return Case(operator, graph, sizes, arrays, known)


def _are_allowed(node: gi.Node, sizes: Mapping[str, int]) -> bool:
    """Whether the node's dims are whole, and go with its attributes as its operator requires."""
    operator, given = node.operator, node.attributes.items()
    try:
        factors = {factor: dim.size(sizes) for factor, dim in node.inference.factors.items()}
        if operator.requires is not None:
            operator.requires(factors, {n: each.size(sizes) if isinstance(each, gi.Dim) else each for n, each in given})
    except DimError:
        return False
    return True


def _size_attributes(node: gi.Node) -> list[gi.Dim]:
    return [value for value in node.attributes.values() if isinstance(value, gi.Dim)]


def _is_integer(operand: Operand) -> bool:
    return operand.is_integer


def _draw_array(
    operand: Operand,
    value: gi.Value,
    node: gi.Node,
    sizes: Mapping[str, int],
    domains: Mapping[str, Draw],
    rng: np.random.Generator,
) -> Array:
    shape = tuple(each.size(sizes) for each in value.shape)
    if operand.indexes:
        ids = rng.integers(0, node.inference.factors[operand.indexes].size(sizes), shape)
        if node.operator.exempt is not None:
            ids = np.where(rng.random(shape) < 0.2, node.attributes[node.operator.exempt], ids)
        return np.asarray(ids, value.dtype)
    if value.dtype in INTEGERS:
        return np.asarray(rng.integers(0, 9, shape), value.dtype)
    if value.dtype == "bool":
        return np.asarray(rng.random(shape) < 0.6)
    if value.dtype == "text":
        return np.array(["".join(rng.choice(list("aé×z ")) for _ in range(5)) for _ in range(shape[0])], object)
    return np.asarray(domains.get(operand.name, away_from_zero)(rng, shape)).astype(value.dtype)


# -- comparing --------------------------------------------------------------------------------------------


def same_bits(left: Any, right: Any) -> bool:
    """Whether two arrays agree in dtype, shape and every bit, so that NaN equals itself and 0 is not −0."""
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    if left.dtype == object:
        return left.shape == right.shape and bool(np.all(left == right))
    return bool(left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())


def distance(left: Any, right: Any) -> float:
    """‖left − right‖ / ‖right‖; the norm of the difference itself where the right one is 0."""
    difference, norm = float(np.linalg.norm(np.subtract(left, right))), float(np.linalg.norm(right))
    return difference / norm if norm else difference
