"""From an operator to its formula: its kernel is called once, on arrays that record what is done to them."""

from __future__ import annotations

import traceback
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from graphir.formula.kinds import double
from graphir.formula.module import TracingModule
from graphir.formula.opaque import Opaque
from graphir.formula.reads import what_it_reads
from graphir.formula.terms import Term, Terms, UntraceableError, walk
from graphir.formula.traced import Extent, Traced
from graphir.ir.attributes import exact
from graphir.ir.graph import Node
from graphir.ir.inference import require_factor, require_operand
from graphir.ir.operator import Operator
from graphir.ir.signature import Operand, Signature
from graphir.ir.types import INTEGERS

#: Attributes of random operators that make no other formula: each node has a key of its own.
_KEY = "key"


@dataclass(frozen=True, eq=False)
class Formula:
    """What an operator computes under a rule and given attributes.

    terms     where further terms of the formula can be made
    results   by the names of the rule's outputs
    """

    terms: Terms
    rule: Signature
    results: Mapping[str, Term]

    @cached_property
    def all_terms(self) -> tuple[Term, ...]:
        """Every term, operands first."""
        return tuple(walk(self.results.values()))


@dataclass(frozen=True)
class NoFormula:
    """Why an operator has none: what its kernel does, and on which line."""

    reason: str
    line: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.reason} ({self.line})" if self.line else self.reason


class _Starts(Opaque):
    """Where blocks lie, in symbols: what a kernel asks of `at`."""

    what = "a place"

    def __init__(self, terms: Terms, rule: Signature, known: frozenset[str] | None) -> None:
        self._terms, self._rule, self._known = terms, rule, known
        self.rule = rule

    @property
    def sizes(self) -> Mapping[str, Extent]:
        """The whole tensors' lengths."""
        return {factor: Extent(self._terms, (factor,), total=True) for factor in self._rule.factors}

    def start(self, factor: str) -> Traced:
        """The first index of the block along `factor`, in the whole tensor."""
        require_factor(self._rule, self._known, factor)
        return Traced(self._terms, self._terms.leaf("start", factor, (), "int"), (), weak=True)

    def region(self, operand: str) -> tuple[tuple[Traced, ...], tuple[Extent, ...]]:
        """An operand's first indices and the whole tensor's shape."""
        factors = require_operand(self._rule, operand).factors
        return tuple(map(self.start, factors)), tuple(Extent(self._terms, (each,), total=True) for each in factors)


def formula_of(node: Node, attributes: Mapping[str, Any]) -> Formula | NoFormula:
    """The formula of a node, or why it has none; `attributes` are its kernel's, dims in numbers."""
    rule = node.inference.rule
    floats = [value.dtype for value in (*node.inputs, *node.outputs) if value.type.is_float]
    narrow = frozenset(e.name for e, value in zip(rule.inputs, node.inputs, strict=True) if value.dtype == "int32")
    return find_formula(node.operator, rule, attributes, floats[0] if floats else "float32", narrow)


def find_formula(
    operator: Operator,
    rule: Signature,
    attributes: Mapping[str, Any],
    dtype: str = "float32",
    narrow: frozenset[str] = frozenset(),
) -> Formula | NoFormula:
    """The formula of `operator` under `rule`, a signature with ranks known, on floats of `dtype`, or why it has none.

    `attributes` are its kernel's, dims in numbers; `narrow` are the operands that are integers of 32 bits. A formula
    holds whatever the sizes. The kernel is called once for it, and once more where what it reads beside operands and
    attributes, a global variable say, is another by then.
    """
    own = operator.attributes.keys() - ({_KEY} if operator.random else set())
    given = {name: value for name, value in attributes.items() if name in own}
    items = tuple((name, given[name]) for name in sorted(given))
    try:
        read = what_it_reads(operator.kernel)
    except UntraceableError as error:
        return NoFormula(str(error))
    return _remembered(operator, rule, dtype, narrow, items, (exact(tuple(value for _, value in items)), read))


@lru_cache(maxsize=4096)
def _remembered(
    operator: Operator,
    rule: Signature,
    dtype: str,
    narrow: frozenset[str],
    attributes: tuple[tuple[str, Any], ...],
    exactly: Hashable,
) -> Formula | NoFormula:
    return _trace(operator, rule, dict(attributes), dtype, narrow)


def _trace(
    operator: Operator, rule: Signature, attributes: Mapping[str, Any], dtype: str, narrow: frozenset[str]
) -> Formula | NoFormula:
    terms = Terms(dtype, narrow, [each.name for each in rule.inputs if each.indexes is not None])
    try:
        return _called(terms, operator, rule, attributes)
    except UntraceableError as error:
        return NoFormula(str(error), _line(error))
    except Exception as error:  # whatever a kernel does to what is no array of numbers
        return NoFormula(f"it fails on symbols: {type(error).__name__}: {error}", _line(error))


def _called(terms: Terms, operator: Operator, rule: Signature, attributes: Mapping[str, Any]) -> Formula:
    """The formula, by one call of the kernel; UntraceableError, or whatever the kernel raises, where it has none."""
    named = {each.name: _operand(terms, each) for each in rule.inputs}
    operands = list(named.values()) if operator.variadic else [named.get(name) for name in operator.operands]
    keywords: dict[str, Any] = dict(attributes)
    if operator.random:
        keywords[_KEY] = Traced(terms, terms.leaf("attribute", _KEY, (), "int"), (), weak=True)
    first = rule.outputs[0]
    if "shape" in operator.keywords:
        keywords["shape"] = tuple(Extent(terms, axis.factors) for axis in first.axes)
    if "at" in operator.keywords:
        keywords["at"] = _Starts(terms, rule, operator.known_factors)
    if "only" in operator.keywords:
        keywords["only"] = tuple(each.name for each in rule.outputs)
    made = operator.kernel(TracingModule(terms), *operands, **keywords)
    results = made if type(made) is tuple else (made,)
    found = _named(terms, operator, rule, attributes, results)
    _require_own_precision(terms, found)
    _require_axes(rule, found)
    _require_places(rule, found)
    _require_no_key(found)
    return Formula(terms, rule, found)


def _operand(terms: Terms, operand: Operand) -> Traced:
    kind = _kind(operand)
    axes = [axis.factors for axis in operand.axes]
    return Traced(terms, terms.leaf("operand", operand.name, operand.factors, kind), axes)


def _kind(operand: Operand) -> str:
    if operand.is_integer or operand.dtype in INTEGERS:
        return "int"
    if operand.dtype == "bool":
        return "bool"
    # A number beside the arrays, a learning rate, in a dtype of its own.
    return "wide" if operand.dtype == "float" and not operand.axes else "float"


def _named(
    terms: Terms, operator: Operator, rule: Signature, attributes: Mapping[str, Any], results: tuple[Any, ...]
) -> dict[str, Term]:
    """The results that the rule keeps, by name, each held to the axes that its signature says."""
    names = [each.name for each in rule.outputs]
    if len(results) != len(names):
        names = [each.name for each in operator.signatures({**attributes, "only": None})[0].outputs]
    found = dict(zip(names, results, strict=True))
    made = {}
    for each in rule.outputs:
        result = found[each.name]
        if type(result) is not Traced:
            raise UntraceableError(f"its result {each.name} is no array that follows from its operands")
        axes = tuple(axis.factors for axis in each.axes)
        if tuple(axis or () for axis in result.axes) != axes:
            shape = " ".join("1" if axis is None else "·".join(axis) for axis in result.axes)
            raise UntraceableError(f"its result {each.name} has the shape [{shape}], where its signature says {each}")
        kind = result.term.kind
        expected = {"bool": "bool", "": "float"}.get(each.dtype, kind)
        if kind != expected and not (kind == "wide" and expected == double(terms)):
            raise UntraceableError(f"its result {each.name} is of another dtype than its signature says")
        made[each.name] = result.term
    return made


def _require_own_precision(terms: Terms, results: Mapping[str, Term]) -> None:
    """UntraceableError where a kernel goes on computing with more digits than its operands have."""
    for term in walk(results.values()):
        if term.operation == "round" and term.detail == "float64" != terms.dtype and term not in results.values():
            raise UntraceableError(f"it computes in float64 what is {terms.dtype}")


def _require_axes(rule: Signature, results: Mapping[str, Term]) -> None:
    """UntraceableError where a kernel makes an axis, and adds it up again, that its signature does not have."""
    known = frozenset(rule.factors)
    for term in walk(results.values()):
        if not term.factors <= known:
            raise UntraceableError(f"it has an axis of {min(term.factors - known)}, which its signature has not")


def _require_places(rule: Signature, results: Mapping[str, Term]) -> None:
    """UntraceableError where a kernel picks elements by numbers of which its signature does not say that they fit."""
    within = {each.name: each.indexes for each in rule.inputs}
    for term in walk(results.values()):
        if term.operation == "at":
            for each in walk([term.operands[1]]):
                if each.operation == "operand" and each.kind == "int" and within[each.detail] != term.detail:
                    raise UntraceableError(
                        f"it picks elements by {each.detail}, which its signature does not say to be in {term.detail}"
                    )


def _require_no_key(results: Mapping[str, Term]) -> None:
    """UntraceableError where a kernel computes with its key itself: a formula is for all nodes alike."""
    read = {each for term in walk(results.values()) if term.operation != "keep" for each in term.operands}
    if any(term.operation == "attribute" for term in (*read, *results.values())):
        raise UntraceableError("it computes with its key, which is another one in each node")


def _line(error: BaseException) -> str:
    """Where in a kernel it was: the last line that is none of this package's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "/formula/" not in frame.filename.replace("\\", "/"):
            return f"{frame.filename}:{frame.lineno}"
    return ""
