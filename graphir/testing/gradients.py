"""Gradients against finite differences in float64.

Notation: L is a scalar loss, x what it depends on, u a random direction of norm 1, D(h) the central difference
(L(x + h u) − L(x − h u)) / 2h = <dL/dx, u> + C h² + O(h⁴), with a rounding error of about ε |L| / h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import graphir as gi
from graphir.errors import DifferentiationError
from graphir.ir.operator import Operator
from graphir.passes import autodiff
from graphir.testing.cases import Array, Case, require, run

#: An output beyond this stands for −∞, as a masked score does: it stays what it is wherever x moves.
_MASKED = 1e20


def carries_gradient(operator: Operator) -> bool:
    """Whether the operator declares a gradient."""
    return bool(operator.d_operator or operator.gradient_rule) and not operator.no_gradient


def check_gradient(case: Case) -> None:
    """The declared gradient of a case's node against central differences: right, and to second order.

    L = Σ R ⊙ (f(x) + C) over the outputs that carry a gradient, R random; and for each such output alone, because
    a loss may depend on some only. u moves all differentiable operands. C is what brings masked outputs (−1e30)
    to 0: beside them no other term would have a digit left, and a gradient that leaks through the mask no trace.
    """
    names = _differentiable_operands(case)
    require(bool(names), f"{case} declares a gradient, but has none for any operand")
    outputs, results = _primary_outputs(case), case.run()
    rng = np.random.default_rng(11)
    arrays = dict(case.arrays)
    for name in outputs:
        y = results[name]
        require(
            bool(np.isfinite(y).all()),
            f"{case}: {name} holds NaN or infinity, which have no finite differences; mask with a finite number like "
            f"−1e30, and draw operands from where the operator is defined (domains=…)",
        )
        arrays[f"R.{name}"] = np.asarray(rng.standard_normal(y.shape))
        arrays[f"C.{name}"] = np.where(np.abs(y) > _MASKED, -y, 0.0)
    for chosen in [outputs] if len(outputs) == 1 else [outputs, *([name] for name in outputs)]:
        loss = _loss_graph(case, chosen)
        given = {value.name: arrays[value.name] for value in loss.inputs}
        check_directional(loss, case.sizes, given, names, f"{case}, a loss of {' and '.join(chosen)}")


def check_directional(
    graph: gi.Graph, sizes: Mapping[str, int], arrays: Mapping[str, Any], names: Sequence[str], what: str
) -> float:
    """The gradient of `graph`'s loss with respect to float64 `names` against D(h); returns the relative error.

    At h = 1e-4 the term C h² is some 1e-8 and rounding 1e-12; relative to ‖dL/dx‖, the largest that <dL/dx, u> can
    be, 1e-6 is demanded. At h = 4e-3 and half of it, the error must fall fourfold, as far as it is above rounding.
    The loss is the graph's only output, or its output L. AssertionError, naming `what`, if the gradient is wrong.
    """
    joint = autodiff(graph, wrt=names)
    found = run(joint, sizes, arrays, what, recompute="nothing")
    gradients: dict[str, Array] = {}
    for name, value in zip(names, joint.outputs[-len(names) :], strict=True):
        made, dtype, shape = np.asarray(found[value.name]), arrays[name].dtype, arrays[name].shape
        require(made.dtype == dtype, f"{what}: d{name} is {made.dtype}, but {name} is {dtype}")
        require(made.shape == shape, f"{what}: d{name} has shape {made.shape}, but {name} has {shape}")
        gradients[name] = made
    rng = np.random.default_rng(13)
    direction = {name: rng.standard_normal(arrays[name].shape) for name in names}
    length = _norm(direction.values())
    forward = gi.compile(graph, sizes)
    loss_name = (graph.outputs[0] if len(graph.outputs) == 1 else graph["L"]).name

    def loss_at(h: float) -> float:
        moved = {name: arrays[name] + h / length * direction[name] for name in names}
        return float(forward({**arrays, **moved})[loss_name])

    slope = sum(float(np.sum(gradients[name] * direction[name])) for name in names) / length
    size, rounding = _norm(gradients.values()), 1e-15 * (1 + abs(loss_at(0)))

    def error(h: float) -> float:
        return abs((loss_at(h) - loss_at(-h)) / (2 * h) - slope)

    small = error(1e-4)
    require(
        small <= 1e-6 * size + 10 * rounding / 1e-4,
        f"{what}: the gradient along a random direction is {slope:.12g}, finite differences are off by {small:.3g}",
    )
    wide, half = error(4e-3), error(2e-3)
    require(
        half <= wide / 3 + 10 * rounding / 2e-3,
        f"{what}: the error of central differences falls from {wide:.3g} to {half:.3g} when h is halved, not fourfold",
    )
    return small / size if size else small


def _primary_outputs(case: Case) -> list[str]:
    """The float outputs that carry a gradient."""
    return [
        operand.name
        for operand, value in zip(case.rule.outputs, case.node.outputs, strict=True)
        if operand.name not in case.operator.auxiliary and value.type.is_float
    ]


def _differentiable_operands(case: Case) -> list[str]:
    """The float operands that a gradient is declared for; autodiff refuses the others in words."""
    names: list[str] = []
    loss = _loss_graph(case, _primary_outputs(case))
    for operand, value in zip(case.rule.inputs, case.node.inputs, strict=True):
        if not value.type.is_float:
            continue
        try:
            autodiff(loss, wrt=[value.name])
        except DifferentiationError as error:
            if f"declares no gradient for its operand {operand.name}" not in str(error):
                raise
        else:
            names.append(value.name)
    return names


def _loss_graph(case: Case, outputs: Sequence[str]) -> gi.Graph:
    """L = Σ R ⊙ (y + C) over `outputs` y of the case's node; `R.y` and `C.y` are further inputs."""
    builder, copies = gi.Builder.extending(case.graph)
    parts = []
    for operand, value in zip(case.rule.outputs, case.node.outputs, strict=True):
        if operand.name not in outputs:
            continue
        R, C = (builder.input(f"{letter}.{operand.name}", value.shape, value.dtype) for letter in "RC")
        weighted = gi.multiply(gi.add(copies[value], C), R)
        parts.append(gi.reduce_sum(weighted) if value.type.rank else weighted)
    loss = gi.add(*parts, name="L") if len(parts) > 1 else parts[0]
    return builder.build(loss)


def _norm(arrays: Iterable[Array]) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(array))) for array in arrays)))
