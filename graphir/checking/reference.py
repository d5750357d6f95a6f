"""What a parallel run is measured against, and how far from it rounding alone may lead.

Notation. u is the unit roundoff of a dtype, 2⁻²⁴ for float32, 2⁻⁵³ for float64. x̂ is what a run computed, x the
float64 result of the graph on one rank.

The tolerance. To first order the error of a run is a sum over its operations, x̂ − x = Σ (∂x/∂yᵢ) δᵢ, each δᵢ a
rounding: no larger than u times the numbers that were added, times a growth g. So it is u times a number that
belongs to the graph and its arguments, not to the dtype nor to the order of additions; a parallel run draws other
δᵢ of the same size. That number is measured by Monte Carlo arithmetic (Parker, 1997): the graph runs in float64
with every float yᵢ, arguments included, multiplied by 1 + ε g ξ, ξ standard normal. What cancels analytically is
covered, because its operands are perturbed; what amplifies errors shows how much it does.

The growth is g = √(n + f), n the longest sum that makes or reads the value, f the operator's operations a point:
sums of n terms err by a multiple of √n u with probability near one (Higham and Mary, 2019), whatever their order.

    spread      root mean square, over the samples, of ‖x̃ − x‖₂, and the largest |x̃ − x| of any element, per u;
                never less than g times the value itself, lest a lucky sample of a scalar make it zero
    tolerance   SAFETY · u · spread, for both norms; 0 for integers and booleans

A rounding is at most u, its sample has the standard deviation u, and errors of two runs may differ in sign: SAFETY
stands for the tail. Clean runs over all plans stay below a third of the tolerance.

Narrow values. Where products read 16 bits, each value is perturbed by the u of its own dtype, and spread is counted in
units of the coarsest. A product reads its narrow operands as they are and adds up wide, so a narrow value has been
rounded once: its g is that of the nodes that work in its dtype, a cast or a view, and the sum's growth is the result's.
What is wide departs from the float64 run by the roundings of what it was made from, and is allowed as much.
float16 ends at 2⁻²⁴: below 2⁻¹⁴ a rounding is half of that, whatever the value.

Kinks (ReLU at 0) and choices (ARG, TOP-k) have no derivative: where a value lies within rounding of one, a run may
depart honestly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends import Executable, ExecutionPlan, Step, plan
from graphir.backends.dtypes import is_float
from graphir.ir.attributes import Attributes
from graphir.ir.builder import Builder
from graphir.ir.dims import Sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.types import FLOATS, TensorType
from graphir.ir.value import Value
from graphir.operators.collectives import identity

Arrays = dict[str, NDArray[Any]]

#: Unit roundoff, by dtype.
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
SAFETY = 4.0
SAMPLES = 4
#: Where there are narrow values: nearly all roundings that count are casts, whose g is no more than they are.
NARROW_SAMPLES = 16
#: The least size of the perturbations: float32's own roundoff, so that what is quadratic in it is measured as it will
#: be; in float64, whose own rounding is far below, that errs on the large side.
_EPSILON = 2.0**-24
#: The largest rounding of what is next to zero, where that is not next to nothing.
_SMALLEST = {"float16": 2.0**-25}


def on_one_rank(graph: Graph, dtype: str | None = None) -> Graph:
    """The same computation without a mesh: every value whole, each collective the identity; floats in `dtype`."""
    builder = Builder(graph.name)
    copies: dict[Value, Value] = {}
    for value in graph.inputs:
        copies[value] = builder.input(f"/{value.name}", value.shape, _widened(value.dtype, dtype))
    for values, declare in ((graph.parameters, builder.parameter), (graph.state, builder.state)):
        for value in values:
            assert value.init is not None
            copies[value] = declare(f"/{value.name}", value.shape, _widened(value.dtype, dtype), value.init)
    for node in graph.nodes:
        operator, attributes = node.operator, node.attributes
        if operator.relayout is not None:
            operator, attributes = identity, identity.normalize({})
        outputs = [(v.name, TensorType(_widened(v.dtype, dtype), v.shape)) for v in node.outputs]
        inputs = [copies[value] for value in node.inputs]
        made = builder.declare(operator, inputs, _whole(attributes, dtype), outputs, node.meta)
        copies.update(zip(node.outputs, made.outputs, strict=True))
    builder.copy_aliases(graph, copies)
    return builder.build(*(copies[value] for value in graph.outputs))


def _widened(name: str, dtype: str | None) -> str:
    return dtype if dtype is not None and name in FLOATS else name


def _whole(attributes: Attributes, dtype: str | None) -> Attributes:
    """Attributes without a split; what names a float's dtype names the other one."""
    items = {name: value for name, value in attributes.items() if name != "split"}
    return Attributes({name: _widened(v, dtype) if isinstance(v, str) else v for name, v in items.items()})


def record(executable: Executable, *arguments: Mapping[str, Any]) -> Arrays:
    """Every value of a run on one rank, arguments included, by name."""
    found: Arrays = {}
    for mapping in arguments:
        for name, array in mapping.items():
            value = executable.graph.find(name)
            found[name if value is None else value.name] = np.asarray(array)

    def look(node: Node, rank: int, results: tuple[Any, ...]) -> None:
        for value, array in zip(node.outputs, results, strict=True):
            found[value.name] = np.asarray(array)

    executable(*arguments, watch=look)
    return found


@dataclass(frozen=True)
class Spread:
    """How far rounding leads a value, per unit roundoff: in the 2-norm, and for any single element.

    Where a graph has narrow values, the unit is that of the narrowest.
    """

    norm: float = 0.0
    element: float = 0.0


@dataclass(frozen=True)
class Reference:
    """What to expect of every value of a parallel graph.

    exact    float64 results by the parallel graph's names; from the single graph where it has the value, and
             from the parallel graph on one rank for what only that has (parts of sums, pieces of a split node)
    spread   how far rounding may lead, by the same names
    origin   the single graph's name for a value, where it has one
    narrow   the unit roundoff of what products read, where that is narrower than the rest; else 0
    """

    exact: Mapping[str, NDArray[Any]]
    spread: Mapping[str, Spread]
    origin: Mapping[str, str]
    narrow: float = 0.0

    @cached_property
    def norms(self) -> Mapping[str, tuple[float, float]]:
        """The 2-norm of what each value should be, and its largest element; 0 for what is no float."""
        return {name: _norms(array) for name, array in self.exact.items()}

    def tolerance(self, name: str, dtype: str) -> tuple[float, float]:
        """The largest deviation that rounding in `dtype` explains: (2-norm, any element)."""
        if dtype not in ROUNDOFF:
            return 0.0, 0.0
        scale, spread = SAFETY * max(ROUNDOFF[dtype], self.narrow), self.spread[name]
        return scale * spread.norm, scale * spread.element


def _norms(array: NDArray[Any]) -> tuple[float, float]:
    """The 2-norm and the largest element, of what is finite."""
    if not is_float(array.dtype) or not array.size:
        return 0.0, 0.0
    finite = np.where(np.isfinite(array), np.abs(array), 0)
    return float(np.sqrt(np.vdot(finite, finite))), float(finite.max())


def make_reference(
    single: Graph, parallel: Graph, sizes: Sizes, *arguments: Mapping[str, Any], samples: int | None = None
) -> Reference:
    """Runs `single`, and `parallel` on one rank, in float64, the latter also perturbed; all with these arguments.

    `samples` says how often it is perturbed; as often as its dtypes need unless given.
    """
    wide = [_floats_as(mapping, "float64") for mapping in arguments]
    alone = record(Executable(plan(on_one_rank(single, "float64"), sizes)), *wide)
    planned = plan(on_one_rank(parallel, "float64"), sizes)
    together = record(Executable(planned), *wide)
    origin = {}
    for value in parallel.values.values():
        name = parallel.origin(value).name
        if name in alone:
            origin[value.name] = name
    exact = {name: alone[origin[name]] if name in origin else array for name, array in together.items()}
    roundings = _roundings(parallel, planned)
    coarsest = max((each.unit for each in roundings.values()), default=_EPSILON)
    narrow = coarsest if coarsest > _EPSILON else 0.0
    if samples is None:
        samples = NARROW_SAMPLES if narrow else SAMPLES
    spread = _measure(planned, together, wide, samples, roundings, coarsest)
    return Reference(exact, spread, origin, narrow)


def _floats_as(arguments: Mapping[str, Any], dtype: str) -> Arrays:
    arrays = {name: np.asarray(array) for name, array in arguments.items()}
    return {name: a.astype(dtype) if is_float(a.dtype) else a for name, a in arrays.items()}


# -- Monte Carlo arithmetic -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rounding:
    """How a value is perturbed.

    unit    its dtype's roundoff, or the least size of perturbations if that is more
    growth  g
    least   below which no rounding falls, however small the element
    """

    unit: float
    growth: float
    least: float

    @property
    def size(self) -> float:
        """Of a perturbation, to the value."""
        return self.unit * self.growth


class _Perturbed(Executable):
    """Runs with every float result multiplied by 1 + ε g ξ."""

    def __init__(self, plan: ExecutionPlan, roundings: Mapping[str, _Rounding], generator: np.random.Generator) -> None:
        super().__init__(plan)
        self.roundings, self.generator = roundings, generator

    def apply(self, step: Step, operands: Sequence[Any], rank: int) -> tuple[Any, ...]:
        results = list(super().apply(step, operands, rank))
        for position, value in zip(step.results, step.node.outputs, strict=True):
            results[position] = self.perturb(value, results[position])
        return tuple(results)

    def perturb(self, value: Value, array: Any) -> Any:
        """`array` as another rounding might have left it."""
        if not value.type.is_float:
            return array
        found, rounding = np.asarray(array), self.roundings[value.name]
        drawn = self.generator.standard_normal(found.shape)
        if rounding.least:
            return found + np.maximum(np.abs(found) * rounding.size, rounding.least) * drawn
        return found * (1 + rounding.size * drawn)


def _measure(
    planned: ExecutionPlan,
    exact: Arrays,
    arguments: Sequence[Arrays],
    samples: int,
    roundings: Mapping[str, _Rounding],
    unit: float,
) -> dict[str, Spread]:
    """The spread of each value, counted in `unit`."""
    squares, largest = dict.fromkeys(exact, 0.0), dict.fromkeys(exact, 0.0)
    for seed in range(samples):
        run = _Perturbed(planned, roundings, np.random.default_rng(seed))
        given = [
            {name: run.perturb(planned.graph[name], array) for name, array in mapping.items()} for mapping in arguments
        ]
        for name, array in record(run, *given).items():
            if is_float(array.dtype) and array.size:
                gap = _gap(array, exact[name])
                squares[name] += float(np.vdot(gap, gap))
                largest[name] = max(largest[name], float(gap.max()))
    result = {}
    for value in planned.graph.values.values():
        if value.name not in exact:
            continue  # nothing that is returned is made of it
        array = exact[value.name]
        if not value.type.is_float or not array.size:
            result[value.name] = Spread()
            continue
        size = roundings[value.name].size
        of_exact = _norms(array)
        norm = max((squares[value.name] / samples) ** 0.5, size * of_exact[0])
        result[value.name] = Spread(norm / unit, max(largest[value.name], size * of_exact[1]) / unit)
    return result


def _gap(array: NDArray[Any], exact: NDArray[Any]) -> NDArray[Any]:
    """|array − exact|, where the same infinity on both sides is no gap."""
    with np.errstate(invalid="ignore"):
        gap: NDArray[Any] = np.abs(array - exact)
    if np.isfinite(gap).all():
        return gap
    return np.where((array == exact) | ~np.isfinite(exact), 0.0, gap)


def _roundings(parallel: Graph, planned: ExecutionPlan) -> dict[str, _Rounding]:
    """How each float of `parallel` is rounded, by name; `planned` is the same on one rank."""
    dtypes = {value.name: value.dtype for value in parallel.values.values() if value.type.is_float}
    growth = _growth(planned, {name: ROUNDOFF[dtype] for name, dtype in dtypes.items()})
    return {
        name: _Rounding(max(ROUNDOFF[dtype], _EPSILON), growth[name], _SMALLEST.get(dtype, 0.0))
        for name, dtype in dtypes.items()
    }


def _growth(planned: ExecutionPlan, roundoff: Mapping[str, float]) -> dict[str, float]:
    """g of every value: √(n + f), n the longest sum among the nodes that make or read it.

    A node that makes what is wider than `value` has not worked in its dtype, and makes no more of its rounding.
    """
    found: dict[str, float] = dict.fromkeys(planned.graph.values, 1.0)
    for step in planned.steps:
        rule, factors, _ = step.node.inference
        sizes = {factor: dim.size(planned.sizes) for factor, dim in factors.items()}
        longest = 1
        for operand in rule.outputs:
            summed = (set(rule.factors) - set(operand.factors)) | (set(operand.factors) & rule.whole_factors)
            count = 1
            for factor in summed:
                count *= sizes[factor]
            longest = max(longest, count)
        g = float(np.sqrt(longest + (step.node.operator.flops or 0)))
        made = min((roundoff[value.name] for value in step.node.outputs if value.name in roundoff), default=1.0)
        for value in (*step.node.inputs, *step.node.outputs):
            if roundoff.get(value.name, 0.0) <= made:
                found[value.name] = max(found[value.name], g)
    return found
