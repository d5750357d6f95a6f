"""Reading an operator's declaration: what its kernel's parameters say, held against its signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from graphir.errors import OperatorError, TypeCheckError
from graphir.ir.attributes import Attribute, Size
from graphir.ir.signature import DTYPE_WORDS, Signature

#: Keywords that a kernel may ask for beside its attributes.
KEYWORDS = frozenset({"shape", "at", "only"})
#: Words that mean something else where an operator is called, or on its nodes.
_RESERVED = frozenset({"name", "names", "builder", "split"})
_KINDS = (float, int, str, bool, Size)


class Declared(NamedTuple):
    """What a kernel's parameters declare: operands in order, whether variadic, attributes, keywords asked for."""

    operands: tuple[str, ...]
    optional: frozenset[str]
    variadic: bool
    attributes: Mapping[str, Attribute]
    keywords: frozenset[str]


def read_kernel(key: str, kernel: Callable[..., Any], random: bool) -> Declared:
    """The operands and attributes of a kernel; OperatorError, naming operator `key`, where it declares badly."""
    if random and "key" not in inspect.signature(kernel).parameters:
        raise OperatorError(f"operator {key} is random: its kernel must take the attribute key: int")
    if not inspect.getdoc(kernel):
        raise OperatorError(f"operator {key}: its kernel has no docstring; state the formula there")
    parameters = list(inspect.signature(kernel).parameters.values())
    # Annotations may be strings that name things the kernel's module does not import at run time.
    hints = get_type_hints(kernel)
    positional = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY][1:]
    keywords = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in positional)
    attributes = {p.name: Attribute(p.name, hints.get(p.name), p.default) for p in keywords if p.name not in KEYWORDS}
    for attribute in attributes.values():
        _check_attribute(key, attribute)
    operands = () if variadic else tuple(p.name for p in positional)
    optional = frozenset(p.name for p in positional if p.default is not inspect.Parameter.empty)
    return Declared(operands, optional, variadic, attributes, frozenset(p.name for p in keywords) & KEYWORDS)


def _check_attribute(key: str, attribute: Attribute) -> None:
    name, annotation = attribute.name, attribute.annotation
    if name in _RESERVED:
        raise OperatorError(
            f"operator {key}: an attribute cannot be called {name}, which means something else in a call"
        )
    if annotation is None:
        raise OperatorError(f"operator {key}: attribute {name} has no annotation")
    element = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    if element not in _KINDS:
        kinds = ", ".join(kind.__name__ for kind in _KINDS)
        raise OperatorError(f"operator {key}: attribute {name} is annotated {annotation}; it may be {kinds} or a tuple")
    if not attribute.required:
        try:
            attribute.convert(attribute.default)
        except TypeCheckError as error:
            raise OperatorError(f"operator {key}: the default of {error}") from None


def check_signatures(
    key: str,
    signatures: Sequence[Signature],
    declared: Declared,
    named_inputs: Set[str],
    named_outputs: Set[str],
) -> None:
    """OperatorError unless signatures, kernel and traits (which name inputs and outputs) speak of the same things."""
    taken = {operand.name for signature in signatures for operand in signature.inputs}
    unused = [name for name in declared.operands if name not in taken and name not in declared.optional]
    for signature in signatures:
        names = [operand.name for operand in signature.inputs]
        if not declared.variadic and (unused or not set(names) <= set(declared.operands)):
            raise OperatorError(
                f"operator {key}: its signature takes ({', '.join(names)}), its kernel ({', '.join(declared.operands)})"
            )
        stars = {axis.factors[0] for operand in signature.inputs for axis in operand.axes if axis.star}
        for operand in signature.outputs:
            for axis in operand.axes:
                if axis.star and axis.factors[0] not in stars:
                    raise OperatorError(f"operator {key}: nothing says how many dims {axis} of {operand} has")
        for operand in (*signature.inputs, *signature.outputs):
            strings = {name for name, attribute in declared.attributes.items() if attribute.annotation is str}
            if operand.indexes is None and operand.dtype not in DTYPE_WORDS | strings:
                raise OperatorError(
                    f"operator {key}: {operand.dtype!r} of {operand} is no dtype, nor an attribute: str"
                )
            if operand.indexes is not None and operand.indexes not in {*signature.factors, *declared.attributes}:
                raise OperatorError(f"operator {key}: {operand} indexes {operand.indexes}, which is no factor")
        if any(operand.variadic for operand in signature.inputs):
            continue
        outputs = {operand.name for operand in signature.outputs}
        for name in (named_inputs - set(names)) | (named_outputs - outputs):
            raise OperatorError(f"operator {key}: a trait names {name}, which its signature {signature} lacks")


def check_backward(key: str, forward: Signature, backward: Signature) -> None:
    """OperatorError unless the d-operator of `key` reads forward values and gradients, and makes gradients."""
    inputs, outputs = [o.name for o in forward.inputs], [o.name for o in forward.outputs]
    known = {*inputs, *outputs, *(f"d{name}" for name in outputs)}
    for operand in backward.inputs:
        if operand.name not in known:
            raise OperatorError(
                f"d-operator of {key}: its operand {operand.name} is no input, output or gradient of "
                f"{key}, which has {', '.join(sorted(known))}"
            )
    for result in backward.outputs:
        if result.name[1:] not in inputs:
            raise OperatorError(f"d-operator of {key}: its result {result.name} is no d of an input")
