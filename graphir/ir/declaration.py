"""An operator's declaration: signature, kernel and traits, held against each other.

It is data, and asks nothing but itself: what follows from it for a node is `graphir.ir.infer`'s to say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from graphir.errors import OperatorError, TypeCheckError
from graphir.ir.attributes import Attribute, Size
from graphir.ir.signature import DTYPE_WORDS, Signature, parse_signature
from graphir.ir.traits import (
    Accumulates,
    Associative,
    Auxiliary,
    Causal,
    Collective,
    Depends,
    Elementwise,
    Exempt,
    Identity,
    IgnoresMasked,
    Inverse,
    JointlyLinear,
    Linear,
    Random,
    Reduction,
    Relayout,
    Requires,
    Retypes,
    Selects,
    ShapeOnly,
    Trait,
    TraitT,
    Updates,
    Vanishes,
    View,
)

Kernel: TypeAlias = Callable[..., Any]
#: Signatures, or, where they follow from attributes, what makes them of these.
Declared: TypeAlias = str | Sequence[str] | Callable[..., str | Sequence[str]]
SaidT = TypeVar("SaidT")
OtherwiseT = TypeVar("OtherwiseT")

_NONE: frozenset[str] = frozenset()
_NO_RESULTS: Mapping[str, frozenset[str]] = {}
_NO_UPDATES: Mapping[str, str] = {}

#: Keywords that a kernel may ask for beside its attributes.
KEYWORDS = frozenset({"shape", "at", "only"})
#: Words that mean something else where an operator is called, or on its nodes.
_RESERVED = frozenset({"name", "names", "builder", "split"})
_KINDS = (float, int, str, bool, Size)


class Parameters(NamedTuple):
    """What a kernel's parameters declare: operands in order, whether variadic, attributes, keywords asked for."""

    operands: tuple[str, ...]
    optional: frozenset[str]
    variadic: bool
    attributes: Mapping[str, Attribute]
    keywords: frozenset[str]


def _said(
    kind: type[TraitT], read: Callable[[TraitT], SaidT], otherwise: OtherwiseT
) -> cached_property[SaidT | OtherwiseT]:
    """What a declaration's trait of that kind says, under a name."""

    def find(declaration: Declaration) -> SaidT | OtherwiseT:
        trait = declaration.trait(kind)
        return otherwise if trait is None else read(trait)

    return cached_property(find)


def _holds(kind: type[Trait]) -> cached_property[bool]:
    """Whether a declaration has a trait of that kind, under a name."""
    return cached_property(lambda declaration: kind in declaration.traits)


@dataclass(frozen=True, eq=False)
class Declaration:
    """What is said of an operator, by whoever declares it; OperatorError where it contradicts itself.

    symbol       how it is drawn
    flops        floating-point operations at each point of the iteration space; None: as many as its formula has
    no_gradient  why it has none, if so
    examples     attributes to check it under
    traits       what else is promised (`graphir.ir.traits`); those that many ask for have a name below
    """

    key: str
    signature: Declared
    kernel: Kernel
    symbol: str = ""
    flops: int | None = None
    no_gradient: str | None = None
    examples: Sequence[Mapping[str, Any]] = ({},)
    traits: Mapping[type[Trait], Trait] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbol", self.symbol or self.key)
        object.__setattr__(self, "examples", tuple(self.examples))
        # Read here, so that a slip is told on the line of the declaration.
        signatures, parameters = self.static, self.parameters
        if signatures is not None:
            traits = self.traits.values()
            named_inputs = {name for trait in traits for name in trait.operands}
            named_outputs = {name for trait in traits for name in trait.results}
            check_signatures(self.key, signatures, parameters, named_inputs, named_outputs)

    def trait(self, kind: type[TraitT]) -> TraitT | None:
        """The trait of that kind, if it is declared."""
        found = self.traits.get(kind)
        assert found is None or isinstance(found, kind)
        return found

    @cached_property
    def static(self) -> tuple[Signature, ...] | None:
        """The signatures where they do not follow from attributes."""
        if callable(self.signature):
            return None
        texts = (self.signature,) if isinstance(self.signature, str) else self.signature
        return tuple(map(parse_signature, texts))

    @cached_property
    def signature_names(self) -> tuple[str, ...]:
        """The attributes that the signatures follow from."""
        return tuple(inspect.signature(self.signature).parameters) if callable(self.signature) else ()

    @cached_property
    def known_factors(self) -> frozenset[str] | None:
        """The factors of all signatures, none of them spelled out; None where signatures follow from attributes."""
        if self.static is None:
            return None
        return frozenset(factor for signature in self.static for factor in signature.factors)

    @cached_property
    def doc(self) -> str:
        """The formula, as the kernel's docstring states it."""
        return inspect.getdoc(self.kernel) or ""

    # -- what the kernel's parameters say ---------------------------------------------------------------

    @cached_property
    def parameters(self) -> Parameters:
        """All that they say."""
        return read_kernel(self.key, self.kernel, self.random)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The operands a kernel is handed, in order; empty for a variadic kernel, which takes what comes."""
        return self.parameters.operands

    @cached_property
    def variadic(self) -> bool:
        """Whether the kernel takes any number of operands."""
        return self.parameters.variadic

    @cached_property
    def attributes(self) -> Mapping[str, Attribute]:
        """The attributes, by name."""
        return self.parameters.attributes

    @cached_property
    def keywords(self) -> frozenset[str]:
        """What the kernel asks for beside its attributes."""
        return self.parameters.keywords

    # -- traits that are asked for by name ----------------------------------------------------------------

    def dependencies(self, signature: Signature, outputs: Iterable[str]) -> frozenset[str]:
        """The inputs that these outputs depend on."""
        everything = frozenset(o.name for o in signature.inputs)
        return frozenset().union(*(self.depends.get(output, everything) for output in outputs))

    depends = _said(Depends, lambda trait: trait.on, _NO_RESULTS)
    auxiliary = _said(Auxiliary, lambda trait: trait.names, _NONE)
    linear = _said(Linear, lambda trait: trait.names, _NONE)
    ignores_masked = _said(IgnoresMasked, lambda trait: trait.names, _NONE)
    vanishes = _said(Vanishes, lambda trait: trait.names, _NONE)
    selects = _said(Selects, lambda trait: trait.names, _NONE)
    updates = _said(Updates, lambda trait: trait.old, _NO_UPDATES)
    reduction = _said(Reduction, lambda trait: trait.kind, "sum")
    elementwise, view, retypes = _holds(Elementwise), _holds(View), _holds(Retypes)
    random, shape_only = _holds(Random), _holds(ShapeOnly)
    jointly_linear, associative = _holds(JointlyLinear), _holds(Associative)
    accumulates = _said(Accumulates, lambda trait: trait.attribute, None)
    exempt = _said(Exempt, lambda trait: trait.attribute, None)
    collective = _said(Collective, lambda trait: trait.method, None)
    inverse = _said(Inverse, lambda trait: trait.rule, None)
    identity = _said(Identity, lambda trait: trait.rule, None)
    causal = _said(Causal, lambda trait: trait.when, None)
    relayout = _said(Relayout, lambda trait: trait.rule, None)
    requires = _said(Requires, lambda trait: trait.check, None)


def read_kernel(key: str, kernel: Callable[..., Any], random: bool) -> Parameters:
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
    return Parameters(operands, optional, variadic, attributes, frozenset(p.name for p in keywords) & KEYWORDS)


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
    declared: Parameters,
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
