"""What a declaration promises, measured: a check for each promise, and `check_operator` for all of them.

Notation: f is an operator's kernel, x its operands, y = f(x). A *case* is a graph of one node, its operands the
graph's inputs, of shapes drawn at random (`graphir.testing.cases`).

    check_operator(operator)             # everything, or
    for case in cases(operator):         # one check, of those in CHECKS that apply to this operator
        check_linear(case)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

import graphir as gi
from graphir.ir.operator import Operator
from graphir.ir.traits import FromStatistics, GivenDot, Sees, Variant, WithSlope, WithStatistics
from graphir.operators.special import masked_score
from graphir.testing.blocks import check_blocks
from graphir.testing.cases import Array, Case, Draw, cases, require, same_bits
from graphir.testing.gradients import carries_gradient, check_gradient


def check_operator(
    operator: Operator, count: int = 5, seeds: Iterable[int] = range(2), domains: Mapping[str, Draw] | None = None
) -> None:
    """Everything that the operators of the dictionary are tested for, on `operator`.

    From each of `seeds` are drawn `count` cases of each example and each alternative of the signature; of five, each
    dim has every size, 1 to 5, once. `domains` says by an operand's name how its floats are drawn where not any will
    do: `{"X": positive}` for a logarithm. A d-operator is an operator, too, and has checks of its own. Errors:
    AssertionError for a promise that is not kept; OperatorError, TypeCheckError or DifferentiationError for a
    declaration that contradicts itself.
    """
    check_declaration(operator)
    for seed in seeds:
        for case in cases(operator, "float32", count, seed, domains):
            check_types(case)
        for case in cases(operator, "float64", count, seed, domains):
            for check, applies in CHECKS.items():
                if applies(operator):
                    check(case)


# -- the declaration --------------------------------------------------------------------------------------


def check_declaration(operator: Operator) -> None:
    """Nothing is missing: a symbol, a docstring that says what each output is, examples, a gradient or a reason."""
    key = operator.key
    operator.require_complete()
    require(bool(operator.symbol.strip()), f"{key} has no symbol to be drawn with")
    # A collective's examples are layouts over a mesh; its content is the identity.
    require(
        bool(operator.examples) or operator.relayout is not None,
        f"{key} has no example, so nothing would be checked; give it examples=({{…attributes…}},)",
    )
    for example in operator.examples:
        for signature in operator.signatures(operator.normalize(example)):
            named = {operator.updates.get(o.name, o.name) for o in signature.outputs if not o.variadic}
            require(
                any(name in operator.doc for name in named),
                f"{key}: its docstring names none of its outputs {', '.join(sorted(named))}; state the formula there",
            )
            inputs = {o.name for o in signature.inputs}
            idle = inputs - operator.dependencies(signature, [o.name for o in signature.outputs])
            require(
                not idle,
                f"{key}: by its depends no output depends on {', '.join(sorted(idle))}; "
                f"take that out of the signature, or say which output does",
            )
    require(gi.find_operator(key) is operator, f"{key} is not what the registry finds under its key")
    if operator.d_operator is not None:
        require(
            operator.d_operator.d_operator_of is operator,
            f"{key} and its d-operator {operator.d_operator.key} are not linked; declare it by @{key}.backward",
        )
        check_declaration(operator.d_operator)


# -- a case -----------------------------------------------------------------------------------------------


def check_types(case: Case) -> None:
    """The kernel runs, and what it returns has the inferred dtype and shape: the interpreter holds it to them."""
    case.run()


def check_inputs_unchanged(case: Case) -> None:
    """A kernel leaves its operands as they were."""
    before = {name: array.copy() for name, array in case.arrays.items()}
    case.run()
    for name, array in case.arrays.items():
        require(same_bits(array, before[name]), f"{case}: its kernel changed its operand {name}")


def check_same_again(case: Case) -> None:
    """The same operands, and the same key, give the same bits."""
    first, second = case.run(), case.run()
    for name in first:
        require(same_bits(first[name], second[name]), f"{case}: {name} differs when computed again")


def check_only(case: Case) -> None:
    """A node that keeps some of its outputs makes the same as the node that makes all, from no more operands."""
    outputs = [o.name for o in case.rule.outputs]
    whole = case.run()
    for count in range(1, len(outputs)):
        for only in itertools.combinations(outputs, count):
            part = _restricted(case, only)
            for name, array in part.run().items():
                same = same_bits(array, whole[name])
                require(same, f"{part}: {name} differs from that of the node with all outputs")


def _restricted(case: Case, only: tuple[str, ...]) -> Case:
    operator, attributes = case.operator, {**case.node.attributes, "only": only}
    builder = gi.Builder("case", dtype=case.node.outputs[0].dtype)
    needed = operator.dependencies(case.rule, only)
    kept = [value for value in case.graph.inputs if value.name in needed]
    inputs = [builder.input(value.name, value.shape, value.dtype) for value in kept]
    graph = builder.build(*operator.all(*inputs, **attributes))
    names = {name for each in graph.dims for name in each.names}
    sizes = {name: size for name, size in case.sizes.items() if name in names}
    return Case(operator, graph, sizes, {value.name: case.arrays[value.name] for value in inputs}, case.domains)


def check_depends(case: Case) -> None:
    """An operand that an output is declared not to depend on may change, and the output keeps every bit."""
    before = case.run()
    for output in case.rule.outputs:
        needed = case.operator.dependencies(case.rule, [output.name])
        for name in {o.name for o in case.rule.inputs} - needed:
            after = case.run(**{name: case.redraw(name, 1)})
            same = same_bits(after[output.name], before[output.name])
            require(same, f"{case}: {output.name} depends on {name}, which its declaration denies")


def check_shape_only(case: Case) -> None:
    """The content of the operands does not matter."""
    before = case.run()
    after = case.run(**{name: case.redraw(name, 1) for name in case.arrays})
    for name in before:
        same = same_bits(after[name], before[name])
        require(same, f"{case}: {name} follows from more than the shapes of the operands")


def check_elementwise(case: Case) -> None:
    """Element i of each output follows from element i of the operands (and from scalars)."""
    shapes = {name: array.shape for name, array in case.arrays.items() if array.shape}
    before = case.run()
    whole = {array.shape for array in before.values()} | set(shapes.values())
    require(len(whole) <= 1, f"{case} is declared elementwise, but its shapes are {sorted(whole)}")
    for keep in np.ndindex(*next(iter(whole), ())):
        changed = {name: case.redraw(name, 1) for name in shapes}
        for name, array in changed.items():
            array[keep] = case.arrays[name][keep]
        after = case.run(**changed)
        for name in before:
            same = same_bits(after[name][keep], before[name][keep])
            require(same, f"{case}: element {keep} of {name} depends on other elements")


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
            require(error <= bound, f"{case}: {output.name} is not linear in {', '.join(names)}: off by {error:.1e}")


def check_sees(case: Case) -> None:
    """What is not to be seen is masked, or 0 of what is linear, and all else follows from the scores."""
    operator = case.operator
    trait = operator.trait(Sees)
    assert trait is not None
    (scores,) = (o.name for o, value in zip(case.rule.inputs, case.graph.inputs, strict=True) if value.type.is_float)
    others = {name: array for name, array in case.arrays.items() if name != scores}
    seen = np.asarray(trait.rule(np, others, case.node.attributes))
    array = case.arrays[scores]
    b, q, k = array.shape[0], *array.shape[-2:]
    require(seen.shape == (b, q, k), f"{case}: what is seen is [b, q, k] = {[b, q, k]}, not {list(seen.shape)}")
    hidden = np.broadcast_to(~seen.reshape(b, *(1,) * (array.ndim - 3), q, k), array.shape)
    (made,) = case.run().values()
    expected = 0 if operator.linear else masked_score(made.dtype)
    require(
        bool(np.all(made[hidden] == expected)), f"{case}: of what is not to be seen it makes another than {expected}"
    )
    require(not np.any(made[~hidden] == masked_score(made.dtype)), f"{case}: what is to be seen it masks")


def check_selects(case: Case) -> None:
    """f(x in fewer bits) = f(x) in fewer bits, for each operand whose elements a result is made of."""
    before = case.run()
    for name in sorted(case.operator.selects):
        after = case.run(**{name: case.arrays[name].astype(np.float16).astype(case.arrays[name].dtype)})
        for result, array in before.items():
            same = same_bits(after[result], array.astype(np.float16).astype(array.dtype))
            require(same, f"{case}: {result} is made of more than elements of {name}")


def check_associative(case: Case) -> None:
    """Of variadic operands some may be put together first: f(f(x₀, x₁), x₂) = f(x₀, x₁, x₂), up to rounding."""
    names = list(case.arrays)
    if len(names) < 3:
        return
    (output,) = case.rule.outputs
    builder = gi.Builder("case", dtype=case.node.outputs[0].dtype)
    values = [builder.input(value.name, value.shape, value.dtype) for value in case.graph.inputs]
    first = case.operator(*values[:2], **case.node.attributes)
    graph = builder.build(case.operator(first, *values[2:], name=output.name, **case.node.attributes))
    found = gi.compile(graph, case.sizes)(case.arrays)[output.name]
    error = float(np.max(np.abs(found - case.run()[output.name]), initial=0.0))
    require(error <= 1e-13, f"{case}: {output.name} is another when {names[0]} and {names[1]} are put together first")


def check_updates(case: Case) -> None:
    """New state has the type of the old, so that it can take its place."""
    for old, new in case.node.updates:
        require(old.type == new.type, f"{case}: {new.name} {new.type} is to replace {old.name} {old.type}")


def check_variants(case: Case) -> None:
    """What may stand for the operator makes the same results, of its operands and of what it adds to them."""
    expected = case.run()
    known = {**case.arrays, **expected}
    for kind in _VARIANTS:
        variant = case.operator.variant(kind)
        if variant is None:
            continue
        if kind is GivenDot:
            (dot,) = set(variant.operands) - known.keys()
            known[dot] = np.sum(math.prod(case.arrays.values()), axis=-1)
        found = _variant_case(case, variant, known).run()
        for name in expected:
            same = np.allclose(found[name], expected[name], rtol=1e-12, atol=1e-14)
            require(same, f"{case}: its variant {variant.key} makes another {name}")
        known = {**found, **known}


def _variant_case(case: Case, variant: Operator, known: Mapping[str, Array]) -> Case:
    """The case with a node of the variant in place of the operator's."""
    builder = gi.Builder("case", dtype=case.node.outputs[0].dtype)
    arrays = {name: known[name] for name in variant.operands}
    inputs = [builder.input(name, array.shape, str(array.dtype)) for name, array in arrays.items()]
    attributes = {name: value for name, value in case.node.attributes.items() if name in variant.attributes}
    return Case(variant, builder.build(*variant.all(*inputs, builder=builder, **attributes)), {}, arrays)


# -- which check is for which operator --------------------------------------------------------------------


#: Statistics before what is made of them.
_VARIANTS: tuple[type[Variant], ...] = (WithSlope, WithStatistics, FromStatistics, GivenDot)


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
    check_blocks: _always,
    check_only: _has_parts,
    check_depends: lambda operator: bool(operator.depends),
    check_shape_only: lambda operator: operator.shape_only,
    check_elementwise: lambda operator: operator.elementwise,
    check_linear: lambda operator: bool(operator.linear) or operator.jointly_linear,
    check_sees: lambda operator: operator.trait(Sees) is not None,
    check_selects: lambda operator: bool(operator.selects),
    check_associative: lambda operator: operator.associative,
    check_updates: lambda operator: bool(operator.updates),
    check_variants: lambda operator: any(operator.variant(kind) for kind in _VARIANTS),
    check_gradient: carries_gradient,
}
