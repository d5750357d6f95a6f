"""What follows from a declaration for a node: attributes in their types, signatures, factors, dtypes, layouts.

infer(declaration, types, attributes)  ->  the rule that fits, each factor's dim, the types of the results
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphir.errors import OperatorError, TypeCheckError
from graphir.ir.assignment import infer_layouts
from graphir.ir.attributes import Attributes
from graphir.ir.declaration import Declaration
from graphir.ir.dims import Dim, shape_text
from graphir.ir.inference import Inference
from graphir.ir.layout import Layout
from graphir.ir.signature import Operand, Signature, bind_factors, check_dtypes, expand, output_shape, parse_signature
from graphir.ir.traits import Factors
from graphir.ir.types import TensorType

#: Attributes that any node may have: which outputs it keeps, and how factors are split that only outputs have.
_BESIDE = frozenset({"only", "split"})


def normalize(declaration: Declaration, attributes: Mapping[str, Any]) -> Attributes:
    """Attributes in their declared types, defaults filled in; TypeCheckError on unknown or missing ones."""
    unknown = attributes.keys() - declaration.attributes.keys() - _BESIDE
    if unknown:
        known = ", ".join(declaration.attributes) or "none"
        raise TypeCheckError(f"unknown attribute {', '.join(sorted(unknown))}; it has {known}")
    items: dict[str, Any] = {}
    for name, attribute in declaration.attributes.items():
        if name not in attributes and attribute.required:
            raise TypeCheckError(f"attribute {name} is missing")
        items[name] = attribute.convert(attributes.get(name, attribute.default))
    if "only" in attributes:
        items["only"] = tuple(attributes["only"])
    if attributes.get("split"):
        items["split"] = tuple(attributes["split"])
    return Attributes(items)


def signatures(declaration: Declaration, attributes: Mapping[str, Any]) -> tuple[Signature, ...]:
    """The alternatives under `attributes`, restricted to the outputs that a node keeps (`only`)."""
    found = declaration.static
    if found is None:
        assert callable(declaration.signature)
        made = declaration.signature(**{name: attributes[name] for name in declaration.signature_names})
        found = tuple(map(parse_signature, (made,) if isinstance(made, str) else made))
    only = attributes.get("only")
    if only is None:
        return found
    restricted = []
    for signature in found:
        unknown = set(only) - {o.name for o in signature.outputs}
        if unknown or not only:
            raise TypeCheckError(f"only={tuple(only)} names no outputs of {signature}")
        restricted.append(signature.restrict(declaration.dependencies(signature, only), only))
    return tuple(restricted)


def given_factors(declaration: Declaration, attributes: Mapping[str, Any]) -> Mapping[str, Dim]:
    """The dims of the factors that attributes give."""
    factors = declaration.trait(Factors)
    if factors is not None:
        return factors.rule(attributes)
    return {name: attributes[name] for name, attribute in declaration.attributes.items() if attribute.is_size}


def infer(declaration: Declaration, types: tuple[TensorType, ...], attributes: Attributes) -> Inference:
    """The rule, factors and output types for inputs of `types`, and attributes in their declared types.

    TypeCheckError, in named dims, if none fits.
    """
    normal = normalize(declaration, attributes)
    if normal != attributes:
        raise TypeCheckError(f"attributes {attributes} should be {normal}")
    alternatives = signatures(declaration, attributes)
    ranks = tuple(type_.rank for type_ in types)
    rule = next((r for r in (expand(s, ranks) for s in alternatives) if r is not None), None)
    if rule is None:
        given = ", ".join(shape_text(type_.shape) for type_ in types) or "nothing"
        raise TypeCheckError(f"{given} does not fit {' or '.join(map(str, alternatives))}")
    shared = check_dtypes(rule, types)
    factors = bind_factors(rule, types, given_factors(declaration, attributes))
    layouts = _layouts(declaration, rule, factors, tuple(type_.layout for type_ in types), attributes)
    outputs = tuple(
        TensorType(_dtype(declaration, o, rule, shared, types, attributes), output_shape(o, factors), layout)
        for o, layout in zip(rule.outputs, layouts, strict=True)
    )
    return Inference(rule, factors, outputs)


def _layouts(
    declaration: Declaration,
    rule: Signature,
    factors: Mapping[str, Dim],
    layouts: tuple[Layout, ...],
    attributes: Attributes,
) -> tuple[Layout, ...]:
    if declaration.relayout is not None:
        return (declaration.relayout(layouts[0], attributes),)
    return infer_layouts(declaration, rule, layouts, attributes.get("split", ()), factors)


def _dtype(
    declaration: Declaration,
    operand: Operand,
    rule: Signature,
    shared: str,
    types: tuple[TensorType, ...],
    attributes: Mapping[str, Any],
) -> str:
    for given, type_ in zip(rule.inputs, types, strict=True):
        # New content takes the place of the old.
        if given.name == declaration.updates.get(operand.name):
            return type_.dtype
    if operand.dtype in attributes:
        if attributes[operand.dtype] == "text":
            raise TypeCheckError(f"{operand.name} holds numbers; its {operand.dtype} cannot be text")
        return str(attributes[operand.dtype])
    if operand.dtype == "same":
        return types[0].dtype
    if operand.is_integer:
        return "int64"
    if operand.dtype in ("bool", "text"):
        return operand.dtype
    if not shared:
        raise OperatorError(f"operator {declaration.key}: nothing gives {operand.name} a dtype")
    return shared
