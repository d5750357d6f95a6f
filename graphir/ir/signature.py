"""Signatures: the one string from which an operator's type rule, iteration space and sharding rule follow.

    matmul    X[*b m k], W[k n] -> Y[*b m n]
    LN        X[*b d!], gamma[d!], beta[d!] -> H[*b d!], mean[*b], rstd[*b]
    lookup    E[v d], T[*b] in v -> X[*b d]
    R         X[s (h d)] -> Y[s h d]

Notation. An operand is a name and its axes in brackets. An axis is a *factor*, a lower-case letter or word:

    m        one dim; the same factor elsewhere is the same dim
    d!       the dim must be whole on every rank: the operator mixes all of it
    *b       any number of dims
    (h d)    one dim that is the product of two factors, the left one major
    (2 c)    an even dim, two halves one behind the other; of (c 2) its two are every other element

After the brackets stands the dtype: nothing for the operator's float (one for all operands that say
nothing), `float` for any float, `int` for any integer, `natural` for one that is not negative, `in v` for
one that indexes factor v, `bool`, `text`, `any` for all but text (and `same`, of a result: the first
operand's), or the name of the attribute that holds the dtype. `X...[*b]` stands for one or more operands X0,
X1, … of that type. Several signatures are alternatives; the first whose ranks fit is used.

A number is a *literal* factor, of 2 or more and as long as it says: (2 c) takes no odd dim, [n 3] one of three at its
end. Like any factor it is the same one wherever a signature names it, so it stands at most once in an operand; it is
whole on every rank, because the kernel, too, has the number written in it.

A factor that only outputs have (BC's new dims, the rows of an embedding's gradient) gets its dim from an
attribute of the same name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from graphir.errors import DimError, OperatorError, TypeCheckError
from graphir.ir.dims import Dim, as_dim, product, shape_text
from graphir.ir.types import FLOATS, INTEGERS, TensorType

#: What may stand behind an operand's brackets, beside `in v` and the name of an attribute.
DTYPE_WORDS = frozenset({"", "float", "int", "natural", "bool", "text", "any", "same"})

_OPERAND = re.compile(
    r"\s*(?P<name>[A-Za-z_][\w.]*?)(?P<variadic>\.\.\.)?\[(?P<axes>[^\]]*)\]\s*(?P<dtype>(in\s+\w+|\w+)?)\s*\Z"
)
_NAME, _LITERAL = r"[a-z]\w*", r"(?:[2-9]|[1-9]\d+)\b"
_FACTOR = rf"(?:{_NAME}|{_LITERAL})"
_AXIS = re.compile(
    rf"\s*(?:\((?P<group>{_FACTOR}(?:\s+{_FACTOR})*)\s*\)|(?P<literal>{_LITERAL})"
    rf"|(?P<star>\*)?(?P<factor>{_NAME})(?P<whole>!)?)"
)


def is_literal(factor: str) -> bool:
    """Whether a factor is a number."""
    return factor.isdigit()


@dataclass(frozen=True, slots=True)
class Axis:
    """One dim of an operand: its factors, major first; `whole` also where the major one is literal."""

    factors: tuple[str, ...]
    whole: bool = False
    star: bool = False

    def __str__(self) -> str:
        if len(self.factors) != 1:
            return f"({' '.join(self.factors)})"
        return f"{'*' * self.star}{self.factors[0]}{'!' * (self.whole and not is_literal(self.factors[0]))}"


@dataclass(frozen=True)
class Operand:
    """A named input or output of a signature."""

    name: str
    axes: tuple[Axis, ...]
    dtype: str = ""
    variadic: bool = False

    @cached_property
    def indexes(self) -> str | None:
        """The factor that this operand's integers index, if they do."""
        return self.dtype[3:] if self.dtype.startswith("in ") else None

    @property
    def is_integer(self) -> bool:
        """Whether its elements are integers."""
        return self.is_bounded or self.dtype == "int"

    @property
    def is_bounded(self) -> bool:
        """Whether not any integer will do: it indexes a factor, or is not negative."""
        return self.dtype == "natural" or self.indexes is not None

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The factors of all axes, in order."""
        return tuple(factor for axis in self.axes for factor in axis.factors)

    def __str__(self) -> str:
        dots = "..." if self.variadic else ""
        return f"{self.name}{dots}[{' '.join(map(str, self.axes))}] {self.dtype}".strip()


@dataclass(frozen=True)
class Signature:
    """Operands and results, as declared; or, with ranks known, a *rule*: no star and no dots left."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Kept, because a signature is looked up far more often than it is made.
        return hash((self.inputs, self.outputs))

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}".strip()

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """Every factor once: the iteration space."""
        operands = (*self.inputs, *self.outputs)
        return tuple(dict.fromkeys(factor for operand in operands for factor in operand.factors))

    @cached_property
    def literals(self) -> Mapping[str, Dim]:
        """The factors that are numbers, with the dims that they say."""
        return {factor: as_dim(int(factor)) for factor in self.factors if is_literal(factor)}

    @cached_property
    def whole_factors(self) -> frozenset[str]:
        """Factors that must be whole on every rank."""
        return frozenset(axis.factors[0] for axis in self._axes if axis.whole)

    @cached_property
    def minor_factors(self) -> frozenset[str]:
        """Factors that some composite dim has below its major one: no split reaches them."""
        return frozenset(factor for axis in self._axes for factor in axis.factors[1:])

    @cached_property
    def output_only_factors(self) -> frozenset[str]:
        """Factors that no input has: nothing but the node itself can say how they are split."""
        inside = {factor for operand in self.inputs for factor in operand.factors}
        return frozenset(self.factors) - inside

    @cached_property
    def spreads(self) -> bool:
        """Whether results only spread what is read, if anything is, over new dims: cheaper to make than to move."""
        if not self.output_only_factors and self.inputs:
            return False
        read = {factor for operand in self.inputs for factor in operand.factors}
        return all(read.issubset(operand.factors) for operand in self.outputs)

    @property
    def _axes(self) -> list[Axis]:
        return [axis for operand in (*self.inputs, *self.outputs) for axis in operand.axes]

    def unroll(self, count: Callable[[str], int]) -> Signature:
        """The signature with variadic operands spelled out, X0, X1, …, `count` of each name."""

        def spread(operands: Sequence[Operand]) -> tuple[Operand, ...]:
            return tuple(e for o in operands for e in (_unroll(o, count(o.name)) if o.variadic else [o]))

        return Signature(spread(self.inputs), spread(self.outputs))

    def restrict(self, inputs: Iterable[str], outputs: Iterable[str]) -> Signature:
        """The signature with only these inputs and outputs, in the declared order."""
        keep_in, keep_out = frozenset(inputs), frozenset(outputs)
        return Signature(
            tuple(o for o in self.inputs if o.name in keep_in), tuple(o for o in self.outputs if o.name in keep_out)
        )


@lru_cache(maxsize=4096)
def parse_signature(text: str) -> Signature:
    """The signature that `text` writes; OperatorError if it is malformed."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise OperatorError(f"signature {text!r} has no '->' between operands and results")
    signature = Signature(_parse_operands(left, text), _parse_operands(right, text))
    named = Counter(o.name for o in (*signature.inputs, *signature.outputs))
    twice = [name for name, count in named.items() if count > 1]
    if twice:
        raise OperatorError(f"signature {text!r} names {', '.join(sorted(twice))} twice")
    if not signature.outputs:
        raise OperatorError(f"signature {text!r} has no result")
    if sum(operand.variadic for operand in signature.inputs) > 1:
        raise OperatorError(f"signature {text!r} has more than one variadic operand")
    return signature


def _parse_operands(text: str, whole: str) -> tuple[Operand, ...]:
    if not text.strip():
        return ()
    operands = []
    for part in text.split(","):
        match = _OPERAND.match(part)
        if match is None:
            raise OperatorError(f"signature {whole!r}: {part.strip()!r} is not of the form name[axes] dtype")
        axes = _parse_axes(match["axes"], whole)
        if sum(axis.star for axis in axes) > 1:
            raise OperatorError(f"signature {whole!r}: {part.strip()!r} has more than one '*'")
        operand = Operand(match["name"], axes, " ".join(match["dtype"].split()), bool(match["variadic"]))
        for factor, count in Counter(operand.factors).items():
            if is_literal(factor) and count > 1:
                raise OperatorError(
                    f"signature {whole!r}: {factor} stands {count} times in {part.strip()!r}, and would be one factor; "
                    f"give the others a name, and an attribute of that name"
                )
        operands.append(operand)
    return tuple(operands)


def _parse_axes(text: str, whole: str) -> tuple[Axis, ...]:
    axes, position = [], 0
    while text[position:].strip():
        match = _AXIS.match(text, position)
        if match is None:
            raise OperatorError(f"signature {whole!r}: cannot read the axis at {text[position:].strip()!r}")
        factors = tuple((match["group"] or match["literal"] or match["factor"]).split())
        axes.append(Axis(factors, bool(match["whole"]) or is_literal(factors[0]), bool(match["star"])))
        position = match.end()
    return tuple(axes)


@lru_cache(maxsize=4096)
def expand(signature: Signature, ranks: tuple[int, ...]) -> Signature | None:
    """The rule that `signature` becomes for inputs of these ranks, `*b` spelled out as b.0, b.1, …

    None if the ranks do not fit. Cached: a model of many layers has few distinct rules.
    """
    inputs = _spread(signature.inputs, len(ranks))
    if inputs is None:
        return None
    stars: dict[str, int] = {}
    for operand, rank in zip(inputs, ranks, strict=True):
        free = rank - sum(not axis.star for axis in operand.axes)
        star = next((axis.factors[0] for axis in operand.axes if axis.star), None)
        if free < 0 or (star is None and free) or (star is not None and stars.setdefault(star, free) != free):
            return None
    outputs = []
    for operand in signature.outputs:
        if operand.variadic:
            outputs.extend(_unroll(operand, len(ranks) - len(signature.inputs) + 1))
        else:
            outputs.append(operand)
    return Signature(
        tuple(_fill_stars(operand, stars) for operand in inputs),
        tuple(_fill_stars(operand, stars) for operand in outputs),
    )


def _spread(operands: Sequence[Operand], count: int) -> list[Operand] | None:
    """Operands with the variadic one repeated so that there are `count`."""
    spare = count - sum(not operand.variadic for operand in operands)
    result: list[Operand] = []
    for operand in operands:
        result.extend(_unroll(operand, spare) if operand.variadic else [operand])
    return result if len(result) == count else None


def _unroll(operand: Operand, count: int) -> list[Operand]:
    return [Operand(f"{operand.name}{i}", operand.axes, operand.dtype) for i in range(count)]


def _fill_stars(operand: Operand, stars: Mapping[str, int]) -> Operand:
    axes: list[Axis] = []
    for axis in operand.axes:
        name = axis.factors[0] if axis.factors else ""
        axes.extend([Axis((f"{name}.{i}",)) for i in range(stars.get(name, 0))] if axis.star else [axis])
    return Operand(operand.name, tuple(axes), operand.dtype)


def bind_factors(rule: Signature, types: Sequence[TensorType], given: Mapping[str, Dim]) -> dict[str, Dim]:
    """The dim of every factor of `rule`, from the inputs' shapes and the dims `given` by attributes.

    TypeCheckError, in named dims, if two operands disagree, a product does not match or a factor is free.
    """
    bound = {**rule.literals, **given}
    origin = dict.fromkeys(given, "the attribute")
    composite: list[tuple[Axis, Dim, str]] = []
    for operand, type_ in zip(rule.inputs, types, strict=True):
        where = f"{operand.name}{shape_text(type_.shape)}"
        for axis, size in zip(operand.axes, type_.shape, strict=True):
            if len(axis.factors) != 1:
                composite.append((axis, size, where))
                continue
            factor = axis.factors[0]
            if bound.setdefault(factor, size) != size:
                if factor in rule.literals:
                    raise TypeCheckError(f"{where} does not fit {operand}: {_spell(size)} is not {factor}")
                raise TypeCheckError(
                    f"{factor} is {_spell(bound[factor])} in {origin[factor]} but {_spell(size)} in {where}"
                )
            origin.setdefault(factor, where)
    for axis, size, where in composite:
        _bind_composite(axis, size, where, bound)
    for factor in rule.factors:
        if factor not in bound:
            raise TypeCheckError(f"nothing gives {factor} a dim; pass {factor}=…")
    return bound


def _bind_composite(axis: Axis, size: Dim, where: str, bound: dict[str, Dim]) -> None:
    free = [factor for factor in axis.factors if factor not in bound]
    known = product(bound[factor] for factor in axis.factors if factor in bound)
    if len(free) == 1:
        try:
            quotient = size / known
        except DimError as error:
            raise TypeCheckError(f"{axis} cannot split {size} in {where}: {error}") from error
        if not quotient.names and quotient.expanded[0].denominator != 1:
            raise TypeCheckError(f"{axis} cannot split {_spell(size)} in {where}: {quotient} is not whole")
        bound[free[0]] = quotient
    elif free:
        raise TypeCheckError(f"{axis} in {where} leaves {' and '.join(free)} free; pass all but one of them")
    elif known != size:
        parts = ", ".join(f"{factor}={_spell(bound[factor])}" for factor in axis.factors)
        raise TypeCheckError(f"{axis} with {parts} makes {known}, not {_spell(size)} as in {where}")


def _spell(size: Dim) -> str:
    definition = size.definitions.get(str(size))
    return f"{size} (= {definition})" if definition is not None else str(size)


def output_shape(operand: Operand, bound: Mapping[str, Dim]) -> tuple[Dim, ...]:
    """The operand's shape under the factors' dims."""
    return tuple(
        bound[axis.factors[0]] if len(axis.factors) == 1 else product(bound[f] for f in axis.factors)
        for axis in operand.axes
    )


def check_dtypes(rule: Signature, types: Sequence[TensorType]) -> str:
    """The operator's float, from the inputs that say no dtype ('' if none); TypeCheckError on a misfit."""
    shared, holder = "", ""
    for operand, type_ in zip(rule.inputs, types, strict=True):
        dtype, name = type_.dtype, operand.name
        if operand.dtype in ("", "float"):
            if dtype not in FLOATS:
                raise TypeCheckError(f"{name} must be a float, not {dtype}")
            if operand.dtype == "":
                if shared and shared != dtype:
                    raise TypeCheckError(f"{holder} is {shared} but {name} is {dtype}; cast one of them")
                shared, holder = dtype, name
        elif operand.is_integer:
            if dtype not in INTEGERS:
                what = f"indexes {operand.indexes}, so it" if operand.indexes else ""
                raise TypeCheckError(" ".join(f"{name} {what} must be an integer, not {dtype}".split()))
        elif operand.dtype == "any":
            if dtype == "text":
                raise TypeCheckError(f"{name} must be numbers or bools, not text")
        elif operand.dtype != dtype:
            raise TypeCheckError(f"{name} must be {operand.dtype}, not {dtype}")
    return shared
