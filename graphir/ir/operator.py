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
- The names of a d-operator's operands say what it needs: forward inputs, forward outputs (both cached) and
  `d` + an output. Its outputs are `d` + an input.
- What cannot be a single d-node declares a `gradient` rule in terms of other operators; what has no
  gradient says why (`no_gradient="…"`). A declaration with neither is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from graphir.errors import OperatorError, TypeCheckError
from graphir.ir.assignment import infer_layouts
from graphir.ir.attributes import Attributes, Size
from graphir.ir.declaration import check_backward, check_signatures, read_kernel
from graphir.ir.dims import Dim, shape_text
from graphir.ir.gradient import GradientContext, GradientRule, Lowering, Recomputation
from graphir.ir.inference import Inference, Place
from graphir.ir.layout import Layout
from graphir.ir.signature import Operand, Signature, bind_factors, check_dtypes, expand, output_shape, parse_signature
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
Kernel: TypeAlias = Callable[..., Any]
#: Signatures, or, where they follow from attributes, what makes them of these.
Declared: TypeAlias = str | Sequence[str] | Callable[..., str | Sequence[str]]
Inverse: TypeAlias = Callable[[Any, tuple[int, ...], Mapping[str, Any]], Any]
Relayout: TypeAlias = Callable[[Layout, Attributes], Layout]
#: Attributes that any node may have: which outputs it keeps, and how factors are split that only outputs have.
_BESIDE = frozenset({"only", "split"})


class Operator:
    """A declared operator. Calling it on values adds a node, type-checked at once, and returns its output."""

    def __init__(
        self,
        key: str,
        signature: Declared,
        kernel: Kernel,
        *,
        symbol: str | None = None,
        auxiliary: str = "",
        depends: Mapping[str, str] | None = None,
        factors: Callable[[Mapping[str, Any]], Mapping[str, Dim]] | None = None,
        elementwise: bool = False,
        linear: str = "",
        jointly_linear: bool = False,
        retypes: bool = False,
        accumulates: str | None = None,
        associative: bool = False,
        random: bool = False,
        shape_only: bool = False,
        view: bool = False,
        inverse: Inverse | None = None,
        identity: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
        causal: Callable[[Mapping[str, Any]], bool] | None = None,
        ignores_masked: str = "",
        vanishes: str = "",
        reduction: str = "sum",
        updates: Mapping[str, str] | None = None,
        relayout: Relayout | None = None,
        collective: str | None = None,
        exempt: str | None = None,
        requires: Callable[[Mapping[str, int], Mapping[str, Any]], None] | None = None,
        no_gradient: str | None = None,
        flops: int = 0,
        examples: Sequence[Mapping[str, Any]] = ({},),
    ) -> None:
        self.key = key
        self.symbol = symbol or key
        self.kernel = kernel
        self.doc = inspect.getdoc(kernel) or ""
        #: Outputs that carry no gradient: statistics and masks, cached for the d-node.
        self.auxiliary = frozenset(auxiliary.split())
        self.elementwise = elementwise
        #: Operands in which the operator is linear, each for itself: a pending sum may pass through one of them.
        self.linear = frozenset(linear.split())
        #: Linear in all operands together: a pending sum passes if all of them are pending.
        self.jointly_linear = jointly_linear
        #: Whether the result is the operand in another dtype, and nothing else: a cast.
        self.retypes = retypes
        #: Of a product: the attribute that holds the dtype of its results, where they are wider than the operands.
        self.accumulates = accumulates
        #: Of a variadic operator: operands may be put together in groups first, as in a sum.
        self.associative = associative
        self.random = random
        #: Whether the result follows from the operands' shapes alone, so that no gradient flows through it.
        self.shape_only = shape_only
        #: Whether the results hold the operand's own elements in another order, so that none need be moved.
        self.view = view
        #: Of a view that keeps every element once: the operand, as a view, from the result, its shape and attributes.
        self.inverse = inverse
        #: Under given attributes: outputs that are an operand itself (dropout at rate 0).
        self.identity = identity
        #: Whether, under given attributes, entries [.., q, k] with k > q do not depend on the operand: they are
        #: masked, and 0 of an operator that is linear.
        self.causal = causal
        #: Operands whose masked entries change nothing but their own results, which are 0.
        self.ignores_masked = frozenset(ignores_masked.split())
        #: Operands where 0 makes the result 0 and changes nothing else: so too, of an elementwise one, the linear ones.
        self.vanishes = frozenset(vanishes.split())
        #: What an output is pending, where a factor that it lacks is split: the parts of a sum, or of a max.
        self.reduction = reduction
        #: Of a collective: the layout that it makes of its operand's. The content stays what it is.
        self.relayout = relayout
        #: Of a collective: the communicator's method that carries it out.
        self.collective = collective
        #: The attribute that holds an integer which is no index, where operands index a factor: an ignored label.
        self.exempt = exempt
        #: Raises a DimError where the sizes of the factors do not go with the attributes.
        self.requires = requires
        #: Output that is the new content of an input: an update returns new state, and may overwrite the old.
        self.updates = dict(updates or {})
        self.no_gradient = no_gradient
        #: Floating-point operations at each point of the iteration space.
        self.flops = flops
        self.examples = tuple(examples)
        self.d_operator: Operator | None = None
        self.d_operator_of: Operator | None = None
        self.gradient_rule: GradientRule | None = None
        #: As this operator, with its slope as a second result: the d-node is then a product.
        self.with_slope: Operator | None = None
        #: As this operator, with statistics of its rows as further results; of them and the operand, `from_statistics`
        #: makes the result again.
        self.with_statistics: Operator | None = None
        self.from_statistics: Operator | None = None
        #: As this d-operator of P and dP, given the inner product of each row of the two as a third operand.
        self.given_dot: Operator | None = None
        self.lower: Lowering | None = None
        #: As `lower`, for a node one of whose whole dims is split.
        self.decompose: Lowering | None = None
        self.recomputations: dict[str, Recomputation] = {}
        self._depends = {output: frozenset(names.split()) for output, names in (depends or {}).items()}
        self._factors = factors
        self._signature = signature
        self._signature_names = tuple(inspect.signature(signature).parameters) if callable(signature) else ()
        self._static: tuple[Signature, ...] | None = None
        if not callable(signature):
            texts = (signature,) if isinstance(signature, str) else tuple(signature)
            self._static = tuple(map(parse_signature, texts))
        declared = read_kernel(key, kernel, random)
        #: The operands a kernel is handed, in order; empty for a variadic kernel, which takes what comes.
        self.operands, self.variadic = declared.operands, declared.variadic
        self.attributes, self.keywords = declared.attributes, declared.keywords
        spoken_of = (self.ignores_masked, self.vanishes, self.updates.values(), *self._depends.values())
        named_inputs = self.linear.union(*spoken_of)
        named_outputs = self.auxiliary.union(self.updates, self._depends)
        if self._static is not None:
            check_signatures(key, self._static, declared, named_inputs, named_outputs)

    # -- the declaration ------------------------------------------------------------------------------

    def backward(self, key: str, signature: Declared, **traits: Any) -> Callable[[Kernel], Operator]:
        """Declares the d-operator; its operands' names say which forward values it caches."""

        def declare(kernel: Kernel) -> Operator:
            traits.setdefault("no_gradient", "it is a gradient itself, and second order is not defined")
            d_operator = operator(key, signature, **traits)(kernel)
            d_operator.d_operator_of = self
            self.d_operator = d_operator
            for own, theirs in zip(self._static or (), d_operator._static or (), strict=False):
                check_backward(self.key, own, theirs)
            return d_operator

        return declare

    def sloped(self, key: str, signature: str | Callable[..., str], **traits: Any) -> Callable[[Kernel], Operator]:
        """Declares the operator that makes the result and its slope beside it: of `X -> Y, slope`, dX = slope ⊙ dY."""

        def declare(kernel: Kernel) -> Operator:
            traits.setdefault("no_gradient", f"it stands for {self.key} in graphs that are differentiated already")
            self.with_slope = operator(key, signature, auxiliary="slope", elementwise=True, **traits)(kernel)
            return self.with_slope

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

    def differentiate(self, context: GradientContext) -> Sequence[Value | None]:
        """Emits the gradients of a node's inputs, as declared."""
        if self.gradient_rule is not None:
            return self.gradient_rule(context)
        assert self.d_operator is not None
        return context.d_node(self.d_operator)

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

    # -- typing ---------------------------------------------------------------------------------------

    def signatures(self, attributes: Mapping[str, Any]) -> tuple[Signature, ...]:
        """The alternatives under `attributes`, restricted to the outputs that a node keeps (`only`)."""
        found = self._static
        if found is None:
            assert callable(self._signature)
            made = self._signature(**{name: attributes[name] for name in self._signature_names})
            found = tuple(map(parse_signature, (made,) if isinstance(made, str) else made))
        only = attributes.get("only")
        if only is None:
            return found
        restricted = []
        for signature in found:
            unknown = set(only) - {o.name for o in signature.outputs}
            if unknown or not only:
                raise TypeCheckError(f"only={tuple(only)} names no outputs of {signature}")
            restricted.append(signature.restrict(self.dependencies(signature, only), only))
        return tuple(restricted)

    def dependencies(self, signature: Signature, outputs: Iterable[str]) -> frozenset[str]:
        """The inputs that these outputs depend on."""
        everything = frozenset(o.name for o in signature.inputs)
        return frozenset().union(*(self._depends.get(output, everything) for output in outputs))

    def normalize(self, attributes: Mapping[str, Any]) -> Attributes:
        """Attributes in their declared types, defaults filled in; TypeCheckError on unknown or missing ones."""
        unknown = attributes.keys() - self.attributes.keys() - _BESIDE
        if unknown:
            known = ", ".join(self.attributes) or "none"
            raise TypeCheckError(f"unknown attribute {', '.join(sorted(unknown))}; it has {known}")
        items: dict[str, Any] = {}
        for name, attribute in self.attributes.items():
            if name not in attributes and attribute.required:
                raise TypeCheckError(f"attribute {name} is missing")
            items[name] = attribute.convert(attributes.get(name, attribute.default))
        if "only" in attributes:
            items["only"] = tuple(attributes["only"])
        if attributes.get("split"):
            items["split"] = tuple(attributes["split"])
        return Attributes(items)

    def infer(self, types: tuple[TensorType, ...], attributes: Attributes) -> Inference:
        """The rule, factors and output types for inputs of `types`, and attributes in their declared types.

        TypeCheckError, in named dims, if none fits.
        """
        # The spelling is part of what is remembered, so that no graph's dims are printed as another's were written.
        return _remembered(self, types, attributes, attributes.spelling, tuple([type_.text for type_ in types]))

    def _infer(self, types: tuple[TensorType, ...], attributes: Attributes) -> Inference:
        normal = self.normalize(attributes)
        if normal != attributes:
            raise TypeCheckError(f"attributes {attributes} should be {normal}")
        signatures = self.signatures(attributes)
        ranks = tuple(type_.rank for type_ in types)
        rule = next((r for r in (expand(s, ranks) for s in signatures) if r is not None), None)
        if rule is None:
            given = ", ".join(shape_text(type_.shape) for type_ in types) or "nothing"
            raise TypeCheckError(f"{given} does not fit {' or '.join(map(str, signatures))}")
        shared = check_dtypes(rule, types)
        factors = bind_factors(rule, types, self._given_factors(attributes))
        layouts = self._infer_layouts(rule, tuple(type_.layout for type_ in types), attributes)
        outputs = tuple(
            TensorType(self._output_dtype(o, rule, shared, types, attributes), output_shape(o, factors), layout)
            for o, layout in zip(rule.outputs, layouts, strict=True)
        )
        return Inference(rule, factors, outputs)

    def _infer_layouts(
        self, rule: Signature, layouts: tuple[Layout, ...], attributes: Attributes
    ) -> tuple[Layout, ...]:
        if self.relayout is not None:
            return (self.relayout(layouts[0], attributes),)
        return infer_layouts(self, rule, layouts, attributes.get("split", ()))

    def _given_factors(self, attributes: Mapping[str, Any]) -> Mapping[str, Dim]:
        if self._factors is not None:
            return self._factors(attributes)
        return {name: attributes[name] for name, attribute in self.attributes.items() if attribute.is_size}

    def _output_dtype(
        self,
        operand: Operand,
        rule: Signature,
        shared: str,
        types: tuple[TensorType, ...],
        attributes: Mapping[str, Any],
    ) -> str:
        for given, type_ in zip(rule.inputs, types, strict=True):
            # New content takes the place of the old.
            if given.name == self.updates.get(operand.name):
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
            raise OperatorError(f"operator {self.key}: nothing gives {operand.name} a dtype")
        return shared

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
    """As `Operator.infer`: passes make a node of the same types again and again."""
    return operator._infer(types, attributes)


_REGISTRY: dict[str, Operator] = {}


def operator(key: str, signature: Declared, **traits: Any) -> Callable[[Kernel], Operator]:
    """Declares and registers the decorated kernel as an operator; see the module's docstring.

    Traits: symbol, auxiliary, depends, factors, elementwise, linear, jointly_linear, retypes, accumulates,
    associative, random, reduction, shape_only, view, inverse, identity, causal, ignores_masked, vanishes, updates,
    relayout, collective, exempt, no_gradient, flops, examples.
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
