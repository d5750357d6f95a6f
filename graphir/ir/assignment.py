"""How a node's rule lies on a mesh: which axes split each factor, and what layouts follow.

An *assignment* gives mesh axes to the factors of a rule. Operands must agree on it; outputs follow from it: a
factor that an output lacks, but depends on, was summed over only partly on each rank, so the output is pending.
What is pending goes through an operator only where the operator is linear.

Of a dim that is a product the axes split the major factor. One that is split until each rank has one of it, N_KV over
tp.N_KV, leaves the axes behind to the next: (k g d) over tp.N_KV and tp.per_N_KV is k over the one, g over the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol, TypeAlias

from graphir.errors import TypeCheckError
from graphir.ir.dims import Dim
from graphir.ir.layout import Layout, filled
from graphir.ir.signature import Axis, Operand, Signature

#: Axes of each factor that is split; factors that are not split may be left out.
Assignment: TypeAlias = Mapping[str, tuple[str, ...]]


class Linearity(Protocol):
    """What of an operator's declaration decides how layouts go through it; see `graphir.ir.traits`."""

    @property
    def key(self) -> str:
        """What messages call it."""

    @property
    def linear(self) -> frozenset[str]:
        """Operands in which it is linear, each for itself."""

    @property
    def jointly_linear(self) -> bool:
        """Whether it is linear in all operands together."""

    @property
    def reduction(self) -> str:
        """What a result is pending where a factor that it lacks is split."""

    def dependencies(self, signature: Signature, outputs: Iterable[str]) -> frozenset[str]:
        """The inputs that these outputs depend on."""


def write_split(assignment: Assignment, factors: frozenset[str]) -> tuple[str, ...]:
    """The attribute `split` of a node: `a0|dp` for each of `factors` that is split."""
    return tuple("|".join((factor, *axes)) for factor, axes in assignment.items() if factor in factors and axes)


def read_split(split: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The axes of output-only factors that the attribute `split` says."""
    return {part.split("|")[0]: tuple(part.split("|")[1:]) for part in split}


def operand_splits(operand: Operand, assignment: Assignment) -> tuple[tuple[str, ...], ...]:
    """The layout of an operand's dims under an assignment."""
    return tuple(
        assignment.get(axis.factors[0], ())
        if len(axis.factors) == 1
        else tuple(each for factor in axis.factors for each in assignment.get(factor, ()))
        for axis in operand.axes
    )


def shares(axis: Axis, axes: tuple[str, ...], dims: Mapping[str, Dim]) -> list[tuple[str, tuple[str, ...]]]:
    """Each factor of one dim with its part of the mesh axes that split the dim."""
    found, (*majors, last) = [], axis.factors
    for factor in majors:
        mine = axes[:1] if len(axes) > 1 and is_filled(factor, axes[:1], dims) else axes
        found.append((factor, mine))
        axes = axes[len(mine) :]
    return [*found, (last, axes)]


def is_filled(factor: str, axes: Sequence[str], dims: Mapping[str, Dim]) -> bool:
    """Whether a factor is split until each rank has one of it."""
    return len(axes) == 1 and filled(axes[0]) == str(dims.get(factor, ""))


def read_assignment(
    rule: Signature, layouts: Sequence[Layout], split: Sequence[str], dims: Mapping[str, Dim]
) -> dict[str, tuple[str, ...]]:
    """The assignment that the inputs' layouts make, factors having these dims; TypeCheckError where they disagree."""
    found = read_split(split)
    origin = dict.fromkeys(found, "the attribute split")
    unknown = set(found) - rule.output_only_factors
    if unknown:
        raise TypeCheckError(f"split names {', '.join(sorted(unknown))}, which inputs have or nothing has")
    for factor in found.keys() & rule.whole_factors:
        raise TypeCheckError(f"{factor} must be whole, but the attribute split lays it over {_axes(found[factor])}")
    for operand, layout in zip(rule.inputs, layouts, strict=True):
        for axis, axes in zip(operand.axes, layout.splits, strict=True):
            for factor, mine in shares(axis, axes, dims) if axis.factors else ():
                if found.setdefault(factor, mine) != mine:
                    raise TypeCheckError(
                        f"{factor} is split over {_axes(found[factor])} in {origin[factor]} "
                        f"but over {_axes(mine)} in {operand.name}"
                    )
                origin.setdefault(factor, operand.name)
            if axis.whole and axes:
                raise TypeCheckError(f"{axis.factors[0]} must be whole, but {operand.name} is split over {_axes(axes)}")
    owner: dict[str, str] = {}
    for factor, axes in found.items():
        for name in axes:
            if owner.setdefault(name, factor) != factor:
                raise TypeCheckError(
                    f"axis {name} splits {owner[name]} in {origin[owner[name]]} and {factor} in {origin[factor]}"
                )
    return found


def infer_layouts(
    operator: Linearity,
    rule: Signature,
    layouts: Sequence[Layout],
    split: Sequence[str],
    dims: Mapping[str, Dim],
) -> tuple[Layout, ...]:
    """The outputs' layouts, factors having these dims; TypeCheckError where the inputs' do not fit each other or the
    operator.
    """
    if not split and all(layout.is_replicated for layout in layouts):
        return tuple(Layout.replicated(len(operand.axes)) for operand in rule.outputs)
    assignment = read_assignment(rule, layouts, split, dims)
    passed = _passed_pending(operator, rule, layouts, assignment)
    results = []
    for operand in rule.outputs:
        depends = operator.dependencies(rule, [operand.name])
        pending: dict[str, str] = {}
        for name, over in passed.items():
            if name in depends:
                pending |= over
        factors = set(operand.factors)
        for source in rule.inputs:
            if source.name in depends:
                for factor in source.factors:
                    if factor not in factors:
                        pending |= dict.fromkeys(assignment.get(factor, ()), operator.reduction)
        for axis in operand.axes:
            for major, minor in pairwise(axis.factors):
                if assignment.get(minor) and not is_filled(major, assignment.get(major, ()), dims):
                    raise TypeCheckError(
                        f"{minor} is split over {_axes(assignment[minor])}, but of {axis} only "
                        f"{axis.factors[0]}, the major factor, can be"
                    )
        results.append(Layout(operand_splits(operand, assignment), pending))
    return tuple(results)


def _passed_pending(
    operator: Linearity, rule: Signature, layouts: Sequence[Layout], assignment: Assignment
) -> dict[str, dict[str, str]]:
    """Per input, what is pending in it and may go on; TypeCheckError if the operator cannot pass it."""
    pending = {o.name: dict(layout.pending) for o, layout in zip(rule.inputs, layouts, strict=True)}
    if not any(pending.values()):
        return {}
    if operator.jointly_linear:
        if len({layout.pending for layout in layouts}) > 1:
            states = ", ".join(f"{name}: {_pending(over)}" for name, over in pending.items())
            raise TypeCheckError(f"its operands must all be pending alike, or none: {states}")
        first = next(iter(pending))
        _require_additive(operator, first, pending[first])
        return {first: pending[first]} if len(pending) == 1 else dict(pending)
    for name, over in pending.items():
        if not over:
            continue
        if name not in operator.linear:
            raise TypeCheckError(f"it is not linear in {name}, but {name} is {_pending(over)}")
        _require_additive(operator, name, over)
        for axis in over:
            for other, theirs in pending.items():
                if other != name and axis in theirs:
                    raise TypeCheckError(f"{name} and {other} are both pending over {axis}: their product is not")
            for factor, axes in assignment.items():
                if axis in axes:
                    raise TypeCheckError(f"{name} is pending over {axis}, which splits {factor} of another operand")
    return {name: over for name, over in pending.items() if over}


def _require_additive(operator: Linearity, name: str, over: Mapping[str, str]) -> None:
    for axis, reduction in over.items():
        if reduction == "max":
            raise TypeCheckError(f"{name} is a pending max over {axis}, which {operator.key} does not keep")


def _axes(axes: Sequence[str]) -> str:
    return " and ".join(axes) or "nothing"


def _pending(over: Mapping[str, str]) -> str:
    return ", ".join(f"a pending {reduction} over {axis}" for axis, reduction in over.items()) or "not pending"
