"""Traits: what a declaration promises of an operator beyond its signature, each a small frozen object.

    @operator("mul", "X[*b], W[*b] -> Y[*b]", elementwise=True, linear="X W")

A keyword of a declaration names a trait, and its value is what the trait says: True for one that says nothing more,
names of operands or results in one string, a mapping, a function of the attributes, or the trait itself. Whoever wants
to know asks the operator for the trait, `operator.trait(Causal)`, never for a name. A new trait is a class here: its
docstring says what it promises, who reads it and what holds it to that (checks are those of `graphir.testing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias, TypeVar

from graphir.errors import OperatorError
from graphir.ir.attributes import Attributes
from graphir.ir.dims import Dim
from graphir.ir.layout import Layout

Written: TypeAlias = Mapping[str, Any]
Names: TypeAlias = frozenset[str]


@dataclass(frozen=True)
class Trait:
    """A promise. `keyword` is how a declaration spells it.

    A class that says no more than the one that it is made of needs no decorator, which would take longer than all else.
    """

    keyword: ClassVar[str] = ""

    def __init_subclass__(cls, keyword: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.keyword = keyword
        if keyword:
            TRAITS[keyword] = cls

    @classmethod
    def read(cls, value: Any) -> Trait | None:
        """The trait that `value` says under the keyword; None if it says that there is none."""
        if value is None or value is False or value == "":
            return None
        return cls() if value is True and not fields(cls) else cls(value)  # type: ignore[call-arg]

    @property
    def operands(self) -> Iterable[str]:
        """The operands that it speaks of: the signature must have them."""
        return ()

    @property
    def results(self) -> Iterable[str]:
        """The results that it speaks of."""
        return ()


#: Every trait, by its keyword.
TRAITS: dict[str, type[Trait]] = {}
TraitT = TypeVar("TraitT", bound=Trait)


def read_traits(key: str, keywords: Mapping[str, Any]) -> dict[type[Trait], Trait]:
    """The traits that the keywords of a declaration say; OperatorError, naming operator `key`, for an unknown one."""
    unknown = keywords.keys() - TRAITS.keys()
    if unknown:
        raise OperatorError(
            f"operator {key}: no trait is called {', '.join(sorted(unknown))}; the traits are {', '.join(TRAITS)}"
        )
    found = {}
    for keyword, value in keywords.items():
        kind = TRAITS[keyword]
        trait = value if isinstance(value, kind) else kind.read(value)
        if trait is not None:
            found[kind] = trait
    return found


@dataclass(frozen=True)
class _Named(Trait):
    """One that names operands or results, each for itself."""

    names: Names

    @classmethod
    def read(cls, value: Any) -> Trait | None:
        return cls(frozenset(value.split())) if value else None


class _OfOperands(_Named):
    """One that names operands."""

    @property
    def operands(self) -> Iterable[str]:
        return self.names


# -- how results follow from operands --------------------------------------------------------------------------


class Auxiliary(_Named, keyword="auxiliary"):
    """Results that carry no gradient: statistics and masks, cached for the d-node.

    Read by autodiff and drawings. A result that is none has its gradient checked (check_gradient).
    """

    @property
    def results(self) -> Iterable[str]:
        return self.names


@dataclass(frozen=True)
class Depends(Trait, keyword="depends"):
    """Of results that do not follow from all operands: those that they follow from.

    Read wherever a node keeps some of its results only, and where a rank's part of a result is pending
    (check_depends, check_only).
    """

    on: Mapping[str, Names]

    @classmethod
    def read(cls, value: Any) -> Trait | None:
        return cls({result: frozenset(names.split()) for result, names in value.items()}) if value else None

    @property
    def operands(self) -> Iterable[str]:
        return frozenset[str]().union(*self.on.values())

    @property
    def results(self) -> Iterable[str]:
        return self.on


class Elementwise(Trait, keyword="elementwise"):
    """Element i of each result follows from element i of the operands, and from scalars.

    Read by fusing, tiles, and whoever computes in place (check_elementwise).
    """


class Linear(_OfOperands, keyword="linear"):
    """It is linear in these operands, each for itself: a pending sum may pass through one, and 0 stays 0.

    Read by layouts, sharding and the causal half (check_linear).
    """


class JointlyLinear(Trait, keyword="jointly_linear"):
    """It is linear in all operands together: a pending sum passes if all of them are pending (check_linear)."""


class Associative(Trait, keyword="associative"):
    """Of a variadic operator: operands may be put together in groups first, as in a sum (check_associative)."""


@dataclass(frozen=True)
class Reduction(Trait, keyword="reduction"):
    """What a result is pending where a factor that it lacks is split: the terms of a max or a mean, not of a sum.

    Read by layouts, tiles and collectives (check_blocks).
    """

    kind: str


class Retypes(Trait, keyword="retypes"):
    """The result is the operand in another dtype, and nothing else: a cast. Read by passes that move casts."""


@dataclass(frozen=True)
class Accumulates(Trait, keyword="accumulates"):
    """Of a product: the attribute that holds the dtype of its results, where they are wider than the operands.

    Read by mixed precision and what rounds products at their end.
    """

    attribute: str


class Random(Trait, keyword="random"):
    """It draws numbers, by seed, step and the node's attribute `key`, the same whoever computes them.

    Read by builders, which give each node a key of its own (check_same_again, check_blocks).
    """


class ShapeOnly(Trait, keyword="shape_only"):
    """The result follows from the operands' shapes alone, so that no gradient flows through it (check_shape_only)."""


class View(Trait, keyword="view"):
    """The results hold the operand's own elements in another order, so that none need be moved.

    Read by fusing and by whoever assigns memory; engines make views of it.
    """


@dataclass(frozen=True)
class Inverse(Trait, keyword="inverse"):
    """Of a view that keeps every element once: the operand, as a view, from the result, its shape and attributes."""

    rule: Callable[[Any, tuple[int, ...], Written], Any]


class Selects(_OfOperands, keyword="selects"):
    """Operands of whose elements each result is made, or of 0: a cast comes to the same before it and behind.

    Read by whoever holds weights as they are stored (check_selects).
    """


@dataclass(frozen=True)
class Identity(Trait, keyword="identity"):
    """Under given attributes: results that are an operand itself (dropout at rate 0). Read by simplify."""

    rule: Callable[[Written], Mapping[str, str]]


# -- masked scores ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Causal(Trait, keyword="causal"):
    """Whether, under given attributes, entries [.., q, k] with k > q do not depend on the operand: they are masked,
    and 0 of an operator that is linear.

    Read by the causal half and its proof.
    """

    when: Callable[[Written], bool]


#: Which entries [b, q, k] are not masked: made by a module, of operands by name, under attributes.
Looks: TypeAlias = Callable[[Any, Written, Written], Any]


@dataclass(frozen=True)
class Sees(Trait, keyword="sees"):
    """Which entries [b, .., q, k] its operands that are no floats leave unmasked: the others do not depend on the rest,
    they are masked, and 0 of an operator that is linear.

    Read by whoever leaves out what no query of a run sees, and its proof (check_sees).
    """

    rule: Looks


class IgnoresMasked(_OfOperands, keyword="ignores_masked"):
    """Operands whose masked entries change nothing but their own results, which are 0. Read by the causal half."""


class Vanishes(_OfOperands, keyword="vanishes"):
    """Operands where 0 makes the result 0 and changes nothing else: so too, of an elementwise one, the linear ones.

    Read by the causal half.
    """


# -- state, sizes and integers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Updates(Trait, keyword="updates"):
    """Results that are the new content of an operand: an update returns new state, and may overwrite the old.

    Read by graphs, donation and training (check_updates).
    """

    old: Mapping[str, str]

    @classmethod
    def read(cls, value: Any) -> Trait | None:
        return cls(dict(value)) if value else None

    @property
    def operands(self) -> Iterable[str]:
        return self.old.values()

    @property
    def results(self) -> Iterable[str]:
        return self.old


@dataclass(frozen=True)
class Factors(Trait, keyword="factors"):
    """The dims of factors that follow from attributes of other names: of BC's new dims from `axes` and `dims`."""

    rule: Callable[[Written], Mapping[str, Dim]]


@dataclass(frozen=True)
class Requires(Trait, keyword="requires"):
    """Raises a DimError where the sizes of the factors do not go with the attributes. Read where sizes are bound."""

    check: Callable[[Mapping[str, int], Written], None]


@dataclass(frozen=True)
class Exempt(Trait, keyword="exempt"):
    """The attribute that holds an integer which is no index, where operands index a factor: an ignored label.

    Read where indices are checked; cases hold some.
    """

    attribute: str


class Positive(_OfOperands, keyword="positive"):
    """Operands of which not any float will do: probabilities, squares, what a logarithm or a root is taken of.

    Cases draw them from 0.1 to 1.
    """


# -- collectives --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relayout(Trait, keyword="relayout"):
    """Of a collective: the layout that it makes of its operand's. The content stays what it is."""

    rule: Callable[[Layout, Attributes], Layout]


@dataclass(frozen=True)
class Collective(Trait, keyword="collective"):
    """Of a collective: the communicator's method that carries it out. Read by costs, buckets and executables."""

    method: str


ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all_reduce", "all_gather", "reduce_scatter"
ALL_TO_ALL, LOCAL_SLICE = "all_to_all", "local_slice"


# -- what it is to engines and readers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Computes(Trait, keyword="computes"):
    """It is one of the parts of attention, exactly, attributes included; its d-operator is the gradient of that part.

    Read by engines that have a kernel for the whole (held to the reference with all that engines make).
    """

    part: str


#: Y = X • W; Z = A / √width where `causal` and `mask` allow it, or where `Sees` says that it is seen; P = S(Z), and so
#: with each row's statistics, made of them, and its gradient given each row's inner product; Y = m ⊙ X / (1 − p);
#: Y = X √width, or X / √width, and Y = cap · tanh(X / cap), of which scores are made.
PRODUCT, MASKED_SCORES, SEEN_SCORES, DROPOUT = "product", "masked scores", "seen scores", "dropout"
SCALED_BY_ROOT, SOFT_CAP = "scaled by a root", "soft cap"
SOFTMAX, SOFTMAX_ROWS = "softmax", "softmax with statistics"
SOFTMAX_AGAIN, SOFTMAX_CENTERED = "softmax from statistics", "gradient of softmax given dot"


class Infix(Trait, keyword="infix"):
    """Its symbol is written between its operands: X • W. Read by the guide."""


class Hidden(Trait, keyword="hidden"):
    """Passes alone make it, and no program is written in it: the dictionary's figure leaves it out."""


# -- variants -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant(Trait):
    """Another operator that may stand for this one, by its key (check_variants)."""

    key: str


class WithSlope(Variant, keyword="with_slope"):
    """As this operator, with its slope as a second result: the d-node is then a product, dX = slope ⊙ dY.

    Read by keep_slopes.
    """


class WithStatistics(Variant, keyword="with_statistics"):
    """As this operator, with statistics of its rows as further results. Read by keep_statistics."""


class FromStatistics(Variant, keyword="from_statistics"):
    """Makes the result again of the operand and those statistics. Read by keep_statistics."""


class GivenDot(Variant, keyword="given_dot"):
    """As this d-operator of P and dP, given the inner product of each row of the two as a third operand.

    Read by keep_statistics.
    """
