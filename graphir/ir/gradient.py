"""How an operator says what its gradient is: the context a rule is handed, and the types of rules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from graphir.ir.assignment import read_assignment, write_split
from graphir.ir.attributes import Attributes
from graphir.ir.signature import Signature, expand
from graphir.ir.value import Value

if TYPE_CHECKING:
    from graphir.ir.operator import Operator


class GradientContext(NamedTuple):
    """What a gradient rule is handed: the forward node's operands and results, and what to make."""

    operator: Operator
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

    def d_node(self, d_operator: Operator, **attributes: Any) -> list[Value | None]:
        """The gradients of the inputs by one node of `d_operator`, its operands found by their names.

        Attributes are `attributes`, then the forward node's of the same name, then the forward node's
        factors (the rows of an embedding). Only outputs that are wanted are made, from what they depend on.
        """
        inference = self.operator.infer(tuple(value.type for value in self.inputs), self.attributes)
        forward = inference.rule
        known = dict(zip((o.name for o in forward.inputs), self.inputs, strict=True))
        known |= dict(zip((o.name for o in forward.outputs), self.outputs, strict=True))
        upstream = zip((f"d{o.name}" for o in forward.outputs), self.gradients, strict=True)
        known |= {name: value for name, value in upstream if value is not None}
        wanted = {f"d{o.name}": name for o, name in zip(forward.inputs, self.names, strict=True) if name}
        for name in d_operator.attributes:
            source = self.attributes if name in self.attributes else inference.factors
            if name not in attributes and name in source:
                attributes[name] = source[name]
        fitting = self._fitting(d_operator, attributes, known, frozenset(wanted))
        if fitting is None:
            return [None] * len(self.inputs)
        signature, partial = fitting
        made = [o.name for o in signature.outputs]
        if partial:
            attributes["only"] = tuple(made)
        layouts = [value.type.layout for value in self.inputs]
        if not all(layout.is_replicated for layout in layouts):
            # What only the d-node's outputs have lies as it did in the forward node.
            assignment = read_assignment(forward, layouts, self.attributes.get("split", ()))
            attributes["split"] = write_split(assignment, signature.output_only_factors)
        operands = [known[o.name] for o in signature.inputs]
        values = d_operator.all(*operands, names=[wanted.get(name) for name in made], **attributes)
        found = dict(zip(made, values, strict=True))
        return [found.get(f"d{o.name}") for o in forward.inputs]

    def _fitting(
        self, d_operator: Operator, attributes: Mapping[str, Any], known: Mapping[str, Value], wanted: frozenset[str]
    ) -> tuple[Signature, bool] | None:
        """The first signature of the d-operator whose operands are there and whose ranks fit, cut to what is wanted,
        and whether anything was cut off; None if none makes what is wanted."""

        def count(name: str) -> int:
            return next(i for i in itertools.count() if f"{name.removeprefix('d')}{i}" not in known)

        for declared in d_operator.signatures(d_operator.normalize(attributes)):
            signature = declared.unroll(count)
            made = [o.name for o in signature.outputs if o.name in wanted]
            if not made:
                continue
            if any(o.variadic for o in declared.outputs):  # all of X0, X1, … are made, or none
                made = [o.name for o in signature.outputs]
            part = signature.restrict(d_operator.dependencies(signature, made), made)
            if all(o.name in known for o in part.inputs):
                ranks = tuple(known[o.name].type.rank for o in part.inputs)
                if expand(part, ranks) is not None:
                    return part, len(made) < len(signature.outputs)
        return None


GradientRule: TypeAlias = Callable[[GradientContext], Sequence[Value | None]]
#: Takes a node apart: its operands, attributes and the full names of its results, by the signature's names.
Lowering: TypeAlias = Callable[[Mapping[str, Value], Attributes, Mapping[str, str]], Mapping[str, Value]]
#: Makes an output of a node again: the node's operands by name, its attributes, the output, the new full name.
Recomputation: TypeAlias = Callable[[Mapping[str, Value], Attributes, Value, str], Value]
