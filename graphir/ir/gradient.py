"""How an operator says what its gradient is: the context a rule is handed, and the types of rules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

from graphir.ir.assignment import read_assignment, write_split
from graphir.ir.attributes import Attributes
from graphir.ir.inference import Inference
from graphir.ir.signature import Signature, expand
from graphir.ir.value import Value


class DOperator(Hashable, Protocol):
    """What a d-node is made of: an `Operator`, which is declared with its gradient, and so above this."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """The attributes that it declares, by name."""

    def normalize(self, attributes: Mapping[str, Any]) -> Attributes:
        """Attributes in their declared types, defaults filled in."""

    def signatures(self, attributes: Mapping[str, Any]) -> tuple[Signature, ...]:
        """The alternatives under `attributes`."""

    def dependencies(self, signature: Signature, outputs: Iterable[str]) -> frozenset[str]:
        """The inputs that these outputs depend on."""


class GradientContext(NamedTuple):
    """What a gradient rule is handed: the forward node's operands and results, and what to make."""

    inference: Inference
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Attributes
    #: The gradient of each output; None where no gradient arrives.
    gradients: tuple[Value | None, ...]
    #: The full name to give each input's gradient, with a leading slash; None where none is wanted.
    names: tuple[str | None, ...]

    @property
    def gradient(self) -> Value:
        """The gradient of the only differentiable output."""
        return next(each for each in self.gradients if each is not None)

    def d_node(self, d_operator: DOperator, **attributes: Any) -> list[Value | None]:
        """The gradients of the inputs by one node of `d_operator`, its operands found by their names.

        Attributes are `attributes`, then the forward node's of the same name, then the forward node's
        factors (the rows of an embedding). Only outputs that are wanted are made, from what they depend on.
        """
        forward, factors, _ = self.inference
        written = _written(d_operator, attributes, self.attributes, factors)
        arrived = tuple([gradient is not None for gradient in self.gradients])
        part = _part(d_operator, written, forward, arrived, tuple([name is not None for name in self.names]))
        if part is None:
            return [None] * len(self.inputs)
        more: dict[str, Any] = {"only": part.made} if part.cut else {}
        layouts = [value.type.layout for value in self.inputs]
        if not all(layout.is_replicated for layout in layouts):
            # What only the d-node's outputs have lies as it did in the forward node.
            assignment = read_assignment(forward, layouts, self.attributes.get("split", ()), factors)
            more["split"] = write_split(assignment, part.output_only_factors)
        known = {o.name: value for o, value in zip(forward.inputs, self.inputs, strict=True)}
        known |= {o.name: value for o, value in zip(forward.outputs, self.outputs, strict=True)}
        upstream = zip(forward.outputs, self.gradients, strict=True)
        known |= {f"d{o.name}": value for o, value in upstream if value is not None}
        wanted = {f"d{o.name}": name for o, name in zip(forward.inputs, self.names, strict=True)}
        values = self.gradient.owner.emit(
            d_operator,
            [known[name] for name in part.read],
            d_operator.normalize({**written, **more}) if more else written,
            [wanted.get(name) for name in part.made],
        )
        found = dict(zip(part.made, values, strict=True))
        return [found.get(f"d{o.name}") for o in forward.inputs]


def _written(
    d_operator: DOperator, said: Mapping[str, Any], attributes: Attributes, factors: Mapping[str, Any]
) -> Attributes:
    """A d-node's attributes: those that are `said`, then the forward node's of the same name, then its factors."""
    known = {**factors, **attributes, **said}
    return d_operator.normalize({**said, **{name: known[name] for name in d_operator.attributes if name in known}})


def taken_as_given(d_operator: DOperator, inference: Inference, attributes: Attributes) -> frozenset[str]:
    """The operands of which a node's d-operator makes no gradient, whatever it is asked for: angles, a mask."""
    declared = d_operator.signatures(_written(d_operator, {}, attributes, inference.factors))
    made = [each for signature in declared for each in signature.outputs]
    if any(each.variadic for each in made):
        return frozenset()
    names = {each.name for each in made}
    return frozenset(each.name for each in inference.rule.inputs if f"d{each.name}" not in names)


class _Part(NamedTuple):
    """What of a d-operator is used: the names of what it reads and makes, and whether anything is cut off."""

    read: tuple[str, ...]
    made: tuple[str, ...]
    cut: bool
    output_only_factors: frozenset[str]


@lru_cache(maxsize=4096)
def _part(
    d_operator: DOperator,
    attributes: Attributes,
    forward: Signature,
    arrived: tuple[bool, ...],
    named: tuple[bool, ...],
) -> _Part | None:
    """The first signature of the d-operator whose operands are there and whose ranks fit, cut to what is wanted.

    There are the operands and results of the rule `forward`, and the gradients of the results where they `arrived`;
    wanted are the gradients of the operands that are `named`. None if no signature makes what is wanted.
    """
    ranks = {o.name: len(o.axes) for o in (*forward.inputs, *forward.outputs)}
    ranks |= {f"d{o.name}": len(o.axes) for o, there in zip(forward.outputs, arrived, strict=True) if there}
    wanted = {f"d{o.name}" for o, each in zip(forward.inputs, named, strict=True) if each}

    def count(name: str) -> int:
        return next(i for i in itertools.count() if f"{name.removeprefix('d')}{i}" not in ranks)

    for declared in d_operator.signatures(attributes):
        signature = declared.unroll(count)
        made = [o.name for o in signature.outputs if o.name in wanted]
        if not made:
            continue
        if any(o.variadic for o in declared.outputs):  # all of X0, X1, … are made, or none
            made = [o.name for o in signature.outputs]
        part = signature.restrict(d_operator.dependencies(signature, made), made)
        read = tuple(o.name for o in part.inputs)
        if all(name in ranks for name in read) and expand(part, tuple(ranks[name] for name in read)) is not None:
            cut = len(made) < len(signature.outputs)
            return _Part(read, tuple(o.name for o in part.outputs), cut, part.output_only_factors)
    return None


GradientRule: TypeAlias = Callable[[GradientContext], Sequence[Value | None]]
#: Takes a node apart: its operands, attributes and the full names of its results, by the signature's names.
Lowering: TypeAlias = Callable[[Mapping[str, Value], Attributes, Mapping[str, str]], Mapping[str, Value]]
#: Makes an output of a node again: the node's operands by name, its attributes, the output, the new full name.
Recomputation: TypeAlias = Callable[[Mapping[str, Value], Attributes, Value, str], Value]


def differentiate(
    rule: GradientRule | None, d_operator: DOperator | None, context: GradientContext
) -> Sequence[Value | None]:
    """Emits the gradients of a node's inputs by the rule that its operator declares, or else by its d-operator."""
    if rule is not None:
        return rule(context)
    assert d_operator is not None
    return context.d_node(d_operator)
