"""How an operator says what its gradient is: the context a rule is handed, and the types of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from graphir.ir.assignment import read_assignment, write_split
from graphir.ir.attributes import Attributes
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
        (signature,) = d_operator.signatures(d_operator.normalize(attributes))[:1]
        made = [o.name for o in signature.outputs if o.name in wanted]
        if not made:
            return [None] * len(self.inputs)
        if len(made) < len(signature.outputs):
            attributes["only"] = tuple(made)
        layouts = [value.type.layout for value in self.inputs]
        if not all(layout.is_replicated for layout in layouts):
            # What only the d-node's outputs have lies as it did in the forward node.
            assignment = read_assignment(forward, layouts, self.attributes.get("split", ()))
            attributes["split"] = write_split(assignment, signature.output_only_factors)
        needed = d_operator.dependencies(signature, made)
        operands = [known[o.name] for o in signature.inputs if o.name in needed]
        values = d_operator.all(*operands, names=[wanted[name] for name in made], **attributes)
        found = dict(zip(made, values, strict=True))
        return [found.get(f"d{o.name}") for o in forward.inputs]


GradientRule: TypeAlias = Callable[[GradientContext], Sequence[Value | None]]
#: Takes a node apart: its operands, attributes and the full names of its results, by the signature's names.
Lowering: TypeAlias = Callable[[Mapping[str, Value], Attributes, Mapping[str, str]], Mapping[str, Value]]
#: Makes an output of a node again: the node's operands by name, its attributes, the output, the new full name.
Recomputation: TypeAlias = Callable[[Mapping[str, Value], Attributes, Value, str], Value]
