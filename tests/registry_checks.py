"""Checks that every operator passes, built in or registered by a user: what a declaration promises, measured.

Notation: f is an operator's kernel, x its operands, y = f(x). A *case* is a graph of one node, its operands
the graph's inputs, of shapes drawn at random (sizes 1 to 5, `*b` of rank 0 to 2, `X...` of 1 to 3 operands).

    check_operator(operator)             # everything, or
    for case in cases(operator):         # one check, of those in CHECKS that apply to this operator
        check_linear(case)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import graphir as gi
from graphir.errors import DifferentiationError
from graphir.ir.operator import Operator
from graphir.passes import autodiff
from tests.registry_cases import Case, cases, same_bits


def carries_gradient(operator: Operator) -> bool:
    return bool(operator.d_operator or operator.gradient_rule) and not operator.no_gradient


# -- the checks -------------------------------------------------------------------------------------------


def check_declaration(operator: Operator) -> None:
    """Nothing is missing: a symbol, a docstring that says what each output is, examples, a gradient or a reason."""
    key = operator.key
    operator.require_complete()
    assert operator.symbol.strip(), f"{key} has no symbol to be drawn with"
    # A collective's examples are layouts over a mesh; its content is checked where sharding is.
    assert operator.examples or operator.relayout, f"{key} has no example, so no generic test covers it"
    for example in operator.examples:
        for signature in operator.signatures(operator.normalize(example)):
            named = {operator.updates.get(o.name, o.name) for o in signature.outputs if not o.variadic}
            assert any(name in operator.doc for name in named), f"{key}: its docstring names none of {sorted(named)}"
    assert gi.find_operator(key) is operator, f"{key} is not what the registry finds under its key"
    if operator.d_operator is not None:
        assert operator.d_operator.d_operator_of is operator, f"{key} and {operator.d_operator.key} are not linked"


def check_types(case: Case) -> None:
    """The inferred type is the dtype and shape of what the kernel returns."""
    results = gi.compile(case.graph, case.sizes)(case.arrays)
    for value in case.node.outputs:
        shape = tuple(each.size(case.sizes) for each in value.shape)
        found = np.asarray(results[value.name])
        assert (str(found.dtype), found.shape) == (value.dtype, shape), (
            f"{case}: {value.name} is inferred as {value.type} = {shape}, its kernel made {found.dtype}{found.shape}"
        )


def check_inputs_unchanged(case: Case) -> None:
    """A kernel leaves its operands as they were."""
    before = {name: array.copy() for name, array in case.arrays.items()}
    case.run()
    for name, array in case.arrays.items():
        unchanged = (array == before[name]).all() if array.dtype == object else same_bits(array, before[name])
        assert unchanged, f"{case}: its kernel changed its operand {name}"


def check_same_again(case: Case) -> None:
    """The same operands, and the same key, give the same bits."""
    first, second = case.run(), case.run()
    for name in first:
        assert same_bits(first[name], second[name]), f"{case}: {name} differs when computed again"


def check_only(case: Case) -> None:
    """A node that keeps some of its outputs makes the same as the node that makes all, from no more operands."""
    outputs = [o.name for o in case.rule.outputs]
    whole = case.run()
    for count in range(1, len(outputs)):
        for only in itertools.combinations(outputs, count):
            part = _restricted(case, only)
            for name, array in part.run().items():
                assert same_bits(array, whole[name]), f"{part}: {name} differs from that of the node with all outputs"


def _restricted(case: Case, only: tuple[str, ...]) -> Case:
    operator, attributes = case.operator, {**case.node.attributes, "only": only}
    builder = gi.Builder("case", dtype=case.node.outputs[0].dtype)
    needed = operator.dependencies(case.rule, only)
    kept = [value for value in case.graph.inputs if value.name in needed]
    inputs = [builder.input(value.name, value.shape, value.dtype) for value in kept]
    graph = builder.build(*operator.all(*inputs, **attributes))
    names = {name for each in graph.dims for name in each.names}
    sizes = {name: size for name, size in case.sizes.items() if name in names}
    return Case(operator, graph, sizes, {value.name: case.arrays[value.name] for value in inputs})


def check_depends(case: Case) -> None:
    """An operand that an output is declared not to depend on may change, and the output keeps every bit."""
    before = case.run()
    for output in case.rule.outputs:
        needed = case.operator.dependencies(case.rule, [output.name])
        for name in {o.name for o in case.rule.inputs} - needed:
            after = case.run(**{name: case.redraw(name, 1)})
            assert same_bits(after[output.name], before[output.name]), f"{case}: {output.name} depends on {name}"


def check_elementwise(case: Case) -> None:
    """Element i of each output follows from element i of the operands (and from scalars)."""
    shapes = {name: array.shape for name, array in case.arrays.items() if array.shape}
    before = case.run()
    whole = {array.shape for array in before.values()} | set(shapes.values())
    assert len(whole) <= 1, f"{case} is declared elementwise, but its shapes are {sorted(whole)}"
    for keep in np.ndindex(*next(iter(whole), ())):
        changed = {name: case.redraw(name, 1) for name in shapes}
        for name, array in changed.items():
            array[keep] = case.arrays[name][keep]
        after = case.run(**changed)
        for name in before:
            same = same_bits(after[name][keep], before[name][keep])
            assert same, f"{case}: element {keep} of {name} depends on other elements"


def check_linear(case: Case) -> None:
    """f(a x + b y) = a f(x) + b f(y) in each operand that is declared linear, the others fixed; or in all jointly."""
    operator = case.operator
    groups = [[name] for name in sorted(operator.linear)]
    if operator.jointly_linear:
        groups = [[o.name for o in case.rule.inputs]]
    a, b = 1.75, -0.6
    for names in groups:
        other = {name: case.redraw(name, 1) for name in names}
        mixed = {name: a * case.arrays[name] + b * other[name] for name in names}
        first, second, both = case.run(), case.run(**other), case.run(**mixed)
        for output in case.rule.outputs:
            if output.name in operator.auxiliary:
                continue
            expected = a * first[output.name] + b * second[output.name]
            # Some tens of roundings of terms as large as the operands' largest products.
            scale = abs(a) * np.abs(first[output.name]) + abs(b) * np.abs(second[output.name])
            bound = 1e-13 * max(1.0, float(np.max(scale, initial=0.0)))
            error = float(np.max(np.abs(both[output.name] - expected), initial=0.0))
            assert error <= bound, f"{case}: {output.name} is not linear in {', '.join(names)}: off by {error:.1e}"


def check_updates(case: Case) -> None:
    """New state has the type of the old, so that it can take its place."""
    for old, new in case.node.updates:
        assert old.type == new.type, f"{case}: {new.name} {new.type} is to replace {old.name} {old.type}"


def check_gradient(case: Case) -> None:
    """The gradient against directional central differences in float64: right, and to second order.

    L = Σ R ⊙ f(x) over the outputs that carry a gradient, R random; u a random direction of norm 1 in all
    differentiable operands. D(h) = (L(x + h u) − L(x − h u)) / 2h = <dL/dx, u> + C h² + O(h⁴), with a rounding
    error of about ε |L| / h. At h = 1e-4 the first is some 1e-8 and the second 1e-12; relative to
    ‖dL/dx‖, the largest that <dL/dx, u> can be, 1e-6 is demanded. At h = 4e-3 and half of it, the error must
    fall fourfold, as far as it is above rounding.
    """
    names = differentiable_operands(case)
    assert names, f"{case} declares a gradient, but has none for any operand"
    loss = _loss_graph(case)
    rng = np.random.default_rng(11)
    arrays = dict(case.arrays)
    for value in loss.inputs[len(case.graph.inputs) :]:
        arrays[value.name] = rng.standard_normal(tuple(each.size(case.sizes) for each in value.shape))
    check_directional(loss, case.sizes, arrays, names, str(case))


def check_directional(
    graph: gi.Graph, sizes: Mapping[str, int], arrays: Mapping[str, Any], names: Sequence[str], what: str
) -> float:
    """Gradients of `graph`'s loss with respect to float64 `names` as `check_gradient` demands; the relative error."""
    joint = autodiff(graph, wrt=names)
    found = gi.compile(joint, sizes, store_masks=True)(arrays)
    gradients = {}
    for name, value in zip(names, joint.outputs[-len(names) :], strict=True):
        gradients[name] = np.asarray(found[value.name])
        assert gradients[name].dtype == arrays[name].dtype, f"{what}: d{name} is {gradients[name].dtype}"
        assert gradients[name].shape == arrays[name].shape, f"{what}: d{name} has shape {gradients[name].shape}"
    rng = np.random.default_rng(13)
    direction = {name: rng.standard_normal(arrays[name].shape) for name in names}
    length = _norm(direction.values())
    forward = gi.compile(graph, sizes)
    loss_name = (joint.outputs[0] if len(graph.outputs) == 1 else graph["L"]).name

    def loss_at(h: float) -> float:
        moved = {name: arrays[name] + h / length * direction[name] for name in names}
        return float(forward({**arrays, **moved})[loss_name])

    slope = sum(float(np.sum(gradients[name] * direction[name])) for name in names) / length
    size, rounding = _norm(gradients.values()), 1e-15 * (1 + abs(loss_at(0)))

    def error(h: float) -> float:
        return abs((loss_at(h) - loss_at(-h)) / (2 * h) - slope)

    small = error(1e-4)
    assert small <= 1e-6 * size + 10 * rounding / 1e-4, (
        f"{what}: the gradient along a random direction is {slope:.12g}, finite differences are off by {small:.3g}"
    )
    wide, half = error(4e-3), error(2e-3)
    assert half <= wide / 3 + 10 * rounding / 2e-3, (
        f"{what}: the error of central differences falls from {wide:.3g} to {half:.3g} when h is halved, not fourfold"
    )
    return small / size if size else small


def differentiable_operands(case: Case) -> list[str]:
    """The float operands that a gradient is declared for; autodiff refuses the others in words."""
    names: list[str] = []
    for operand, value in zip(case.rule.inputs, case.node.inputs, strict=True):
        if not value.type.is_float:
            continue
        try:
            autodiff(_loss_graph(case), wrt=[value.name])
        except DifferentiationError as error:
            if f"declares no gradient for its operand {operand.name}" not in str(error):
                raise
        else:
            names.append(value.name)
    return names


def _loss_graph(case: Case) -> gi.Graph:
    """L = Σ R ⊙ y over the outputs y of the case's node that carry a gradient; the R are further inputs."""
    builder, copies = gi.Builder.extending(case.graph)
    parts = []
    for operand, value in zip(case.rule.outputs, case.node.outputs, strict=True):
        if operand.name in case.operator.auxiliary or not value.type.is_float:
            continue
        R = builder.input(f"R_{len(parts)}", value.shape, value.dtype)
        weighted = gi.multiply(copies[value], R)
        parts.append(gi.reduce_sum(weighted) if value.type.rank else weighted)
    loss = gi.add(*parts, name="L") if len(parts) > 1 else parts[0]
    return builder.build(loss)


def _norm(arrays: Any) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(array))) for array in arrays)))


def _always(operator: Operator) -> bool:
    return True


def _has_parts(operator: Operator) -> bool:
    """Whether it is a d-operator of several outputs, of which autodiff may want some only."""
    signatures = (s for each in operator.examples for s in operator.signatures(operator.normalize(each)))
    return operator.d_operator_of is not None and any(len(s.outputs) > 1 for s in signatures)


#: Every check of a case, and which operators it is for.
CHECKS: Mapping[Callable[[Case], None], Callable[[Operator], bool]] = {
    check_types: _always,
    check_inputs_unchanged: _always,
    check_same_again: _always,
    check_only: _has_parts,
    check_depends: lambda operator: bool(operator._depends),
    check_elementwise: lambda operator: operator.elementwise,
    check_linear: lambda operator: bool(operator.linear) or operator.jointly_linear,
    check_updates: lambda operator: bool(operator.updates),
    check_gradient: carries_gradient,
}


def check_operator(operator: Operator, count: int = 3, seed: int = 0) -> None:
    """Everything that the registry's own operators are tested for, on `operator`."""
    check_declaration(operator)
    for dtype in ("float32", "float64"):
        for case in cases(operator, dtype, count, seed):
            check_types(case)
    for case in cases(operator, "float64", count, seed):
        for check, applies in CHECKS.items():
            if applies(operator):
                check(case)
