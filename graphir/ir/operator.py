"""Operators: one declaration each, from which every pass, backend, drawing and generic test works.

A declaration is a decorated kernel, with its d-operator beside it:

    @operator("GL2", "X[*b] -> Y[*b]", symbol="GL²", elementwise=True, flops=1)
    def square(xp, X):
        '''Y = X².'''
        return X * X

    @square.backward("dGL2", "X[*b], dY[*b] -> dX[*b]", symbol="dGL²", elementwise=True, flops=2)
    def d_square(xp, X, dY):
        '''dX = 2 X ⊙ dY.'''
        return 2 * X * dY

- The signature types it, counts it and says how it may be sharded (`graphir.ir.signature`).
- The kernel is the specification. It is written over an array module `xp` (numpy, cupy): operands by the
  names of the signature, then, keyword-only, the attributes with their types and defaults. An attribute
  annotated `Size` is a dim in the graph and a number in the kernel.
- A kernel may ask for three more keywords: `shape`, the local shape of its first output; `at`, where its
  blocks lie in the global tensors (`Place`); `only`, the names of the outputs that are wanted, where the
  others may be left None.
- Everything else is a trait (`graphir.ir.traits`), by its keyword: `elementwise=True`, `linear="X"`. A declaration is
  data (`graphir.ir.declaration`); what follows from it for a node is inferred (`graphir.ir.infer`).
- The names of a d-operator's operands say what it needs: forward inputs, forward outputs (both cached) and
  `d` + an output. Its outputs are `d` + an input.
- What cannot be a single d-node declares a `gradient` rule in terms of other operators; what has no
  gradient says why (`no_gradient="…"`). A declaration with neither is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from graphir.errors import OperatorError, TypeCheckError
from graphir.ir import infer as inferring
from graphir.ir.attributes import Attributes, Size
from graphir.ir.declaration import Declaration, Declared, Kernel, check_backward
from graphir.ir.gradient import (
    GradientContext,
    GradientRule,
    Lowering,
    Recomputation,
    differentiate,
    taken_as_given,
)
from graphir.ir.inference import Inference, Place
from graphir.ir.signature import Signature
from graphir.ir.traits import FromStatistics, GivenDot, Variant, WithSlope, WithStatistics, read_traits
from graphir.ir.types import TensorType
from graphir.ir.value import Emitter, Value

__all__ = [
    "Array",
    "Attributes",
    "GradientContext",
    "Inference",
    "Operator",
    "Place",
    "Size",
    "Xp",
    "find_operator",
    "operator",
    "operators",
]

#: An array of whichever module runs the kernel, and that module. Kernels are duck-typed over both.
Array: TypeAlias = Any
Xp: TypeAlias = Any


class Operator(Declaration):
    """A declared operator. Calling it on values adds a node, type-checked at once, and returns its output."""

    def __init__(
        self,
        key: str,
        signature: Declared,
        kernel: Kernel,
        *,
        symbol: str = "",
        flops: int | None = None,
        no_gradient: str | None = None,
        examples: Sequence[Mapping[str, Any]] = ({},),
        **traits: Any,
    ) -> None:
        super().__init__(key, signature, kernel, symbol, flops, no_gradient, examples, read_traits(key, traits))
        self.d_operator: Operator | None = None
        self.d_operator_of: Operator | None = None
        self.gradient_rule: GradientRule | None = None
        self.lower: Lowering | None = None
        #: As `lower`, for a node one of whose whole dims is split.
        self.decompose: Lowering | None = None
        self.recomputations: dict[str, Recomputation] = {}

    # -- the declaration ------------------------------------------------------------------------------

    def backward(self, key: str, signature: Declared, **traits: Any) -> Callable[[Kernel], Operator]:
        """Declares the d-operator; its operands' names say which forward values it caches."""

        def declare(kernel: Kernel) -> Operator:
            traits.setdefault("no_gradient", "it is a gradient itself, and second order is not defined")
            d_operator = operator(key, signature, **traits)(kernel)
            d_operator.d_operator_of = self
            self.d_operator = d_operator
            for own, theirs in zip(self.static or (), d_operator.static or (), strict=False):
                check_backward(self.key, own, theirs)
            return d_operator

        return declare

    def gradient(self, rule: GradientRule) -> GradientRule:
        """Declares a gradient made of other operators."""
        self.gradient_rule = rule
        return rule

    def lowering(self, rule: Lowering) -> Lowering:
        """Declares how a node of this operator is taken apart into simpler ones."""
        self.lower = rule
        return rule

    def decomposition(self, rule: Lowering) -> Lowering:
        """Declares what a node becomes where a dim that must be whole is split."""
        self.decompose = rule
        return rule

    def recomputation(self, output: str) -> Callable[[Recomputation], Recomputation]:
        """Declares how a cached output is made again from the operands, for those who would not store it."""

        def declare(rule: Recomputation) -> Recomputation:
            self.recomputations[output] = rule
            return rule

        return declare

    def require_complete(self) -> None:
        """OperatorError if nothing says what the gradient is, or why there is none."""
        if not (self.d_operator or self.gradient_rule or self.no_gradient):
            raise OperatorError(
                f"operator {self.key} declares no gradient: give it a d-operator (@{self.key}.backward), "
                f"a rule (@{self.key}.gradient), or say why it has none (no_gradient='…')"
            )

    # -- making some of the outputs -------------------------------------------------------------------

    @property
    def is_separable(self) -> bool:
        """Whether the kernel makes an output without the others, and spares itself what these alone need."""
        return "only" in self.keywords

    def restricted(self, attributes: Mapping[str, Any], outputs: Iterable[str]) -> dict[str, Any]:
        """The attributes of a node that makes, of its outputs, only these."""
        return {**attributes, "only": tuple(outputs)}

    def differentiate(self, context: GradientContext) -> Sequence[Value | None]:
        """Emits the gradients of a node's inputs, as declared."""
        return differentiate(self.gradient_rule, self.d_operator, context)

    def taken_as_given(self, inference: Inference, attributes: Attributes) -> frozenset[str]:
        """The operands that no gradient flows back to, as far as a d-operator says so."""
        if self.gradient_rule is not None or self.d_operator is None:
            return frozenset()
        return taken_as_given(self.d_operator, inference, attributes)

    # -- what other operators there are for it ----------------------------------------------------------

    def variant(self, kind: type[Variant]) -> Operator | None:
        """The operator that the trait `kind` names, if it is declared."""
        trait = self.trait(kind)
        return None if trait is None else find_operator(trait.key)

    @property
    def with_slope(self) -> Operator | None:
        """With its slope as a second result."""
        return self.variant(WithSlope)

    @property
    def with_statistics(self) -> Operator | None:
        """With statistics of its rows as further results."""
        return self.variant(WithStatistics)

    @property
    def from_statistics(self) -> Operator | None:
        """What makes the result again of the operand and statistics."""
        return self.variant(FromStatistics)

    @property
    def given_dot(self) -> Operator | None:
        """Given the inner product of each row of its operands."""
        return self.variant(GivenDot)

    # -- typing: see `graphir.ir.infer` -------------------------------------------------------------------

    def signatures(self, attributes: Mapping[str, Any]) -> tuple[Signature, ...]:
        """The alternatives under `attributes`, restricted to the outputs that a node keeps (`only`)."""
        return inferring.signatures(self, attributes)

    def normalize(self, attributes: Mapping[str, Any]) -> Attributes:
        """Attributes in their declared types, defaults filled in; TypeCheckError on unknown or missing ones."""
        return inferring.normalize(self, attributes)

    def infer(self, types: tuple[TensorType, ...], attributes: Attributes) -> Inference:
        """The rule, factors and output types for inputs of `types`, and attributes in their declared types.

        TypeCheckError, in named dims, if none fits.
        """
        # The spelling is part of what is remembered, so that no graph's dims are printed as another's were written.
        return _remembered(self, types, attributes, attributes.spelling, tuple([type_.text for type_ in types]))

    # -- use ------------------------------------------------------------------------------------------

    def __call__(
        self, *inputs: Value, name: str | None = None, builder: Emitter[Operator] | None = None, **attributes: Any
    ) -> Value:
        """Adds a node and returns its (first) output; `name` is local to the current scope.

        `builder` is needed only where there is no input to tell whose graph it is. Errors: TypeCheckError
        on the line of the call.
        """
        return self.all(*inputs, names=name, builder=builder, **attributes)[0]

    def all(
        self,
        *inputs: Value,
        names: Sequence[str | None] | str | None = None,
        builder: Emitter[Operator] | None = None,
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """As a call, with every output returned, statistics and masks included."""
        owner = builder or next((value.owner for value in inputs if isinstance(value, Value)), None)
        if owner is None:
            raise TypeCheckError(f"{self.key} needs graph values, or builder=…, to know which graph it joins")
        return owner.emit(self, inputs, attributes, names)

    def __repr__(self) -> str:
        return f"<operator {self.key}>"


@lru_cache(maxsize=4096)
def _remembered(
    operator: Operator, types: tuple[TensorType, ...], attributes: Attributes, *spelled: object
) -> Inference:
    """As `infer`: passes make a node of the same types again and again."""
    return inferring.infer(operator, types, attributes)


_REGISTRY: dict[str, Operator] = {}


def operator(key: str, signature: Declared, **traits: Any) -> Callable[[Kernel], Operator]:
    """Declares and registers the decorated kernel as an operator; see the module's docstring.

    Beside traits, by the keywords of `graphir.ir.traits`, it may have a symbol, flops, examples and no_gradient.
    OperatorError if the declaration contradicts itself or `key` is taken.
    """

    def declare(kernel: Kernel) -> Operator:
        taken = _REGISTRY.get(key)
        # A notebook cell that is run twice declares the same function again; anything else is a clash.
        if taken is not None and _home(taken.kernel) != _home(kernel):
            raise OperatorError(f"operator key {key!r} is taken by {_home(taken.kernel)}; choose another")
        declared = Operator(key, signature, kernel, **traits)
        _REGISTRY[key] = declared
        return declared

    return declare


def _home(kernel: Kernel) -> str:
    return f"{kernel.__module__}.{kernel.__qualname__}"


def find_operator(key: str) -> Operator:
    """The operator registered under `key`; OperatorError if there is none."""
    if key not in _REGISTRY:
        raise OperatorError(f"no operator is called {key!r}; the registry has {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[key]


def operators() -> Iterator[Operator]:
    """Every registered operator, in the order of declaration."""
    return iter(tuple(_REGISTRY.values()))
