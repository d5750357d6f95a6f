"""Terms: a number for each combination of indices, as operations on other such numbers.

A term has no shape and no order of axes. It depends on *factors*, the letters of its operator's signature: `X[*b d]` is
a term over b0, b1 and d, its mean over d one over b0 and b1. So a transpose, a new axis of length 1 or a broadcast is
no operation, and whoever computes terms chooses which factors are rows and which are columns.

Leaves

    operand     an operand of the operator: `detail` is its name
    number      a number that is known: `detail`
    index       where along a factor one is, from 0 at the beginning of the block that is computed
    start       where that block begins along a factor, in the whole tensor
    extent      how long the block is along factors, multiplied up
    total       how long the whole tensor is along a factor
    attribute   an attribute that differs from run to run of the same program text: `detail` is its name

Operations on elements have the names of NumPy's functions (`add`, `exp`, `where`, …). `sum`, `max` and `min` go over
the factors in `detail`; `at` is its first operand where the index along the factor `detail` is the second; `round` is
its operand as the dtype `detail` holds it. What only some machines can do has a name of its own (`primitives`).

Kinds: `float`, of whichever dtype the operands are; `wide`, float64; `int`; `bool`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphir.ir.attributes import exact

Number: TypeAlias = float | int | bool


class UntraceableError(BaseException):
    """Why a kernel has no formula: what it did that no formula says.

    No Exception: a kernel that tries one thing, and another where that fails, must not take it for a failure. Whoever
    traces a kernel catches it; nobody else sees it.
    """


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """An operation on other terms, or a leaf; see the module."""

    operation: str
    operands: tuple[Term, ...]
    detail: Any
    factors: frozenset[str]
    kind: str

    def __repr__(self) -> str:
        inside = [*map(repr, self.operands), *([] if self.detail is None else [repr(self.detail)])]
        return f"{self.operation}({', '.join(inside)})"


#: What takes floats, or ints, and returns the like.
ARITHMETIC = frozenset({"add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "remainder"})
#: What takes floats and returns floats.
FUNCTIONS = frozenset({"exp", "log", "sqrt", "tanh", "sin", "cos", "erf", "absolute", "negative"})
COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal"})
REDUCTIONS = frozenset({"sum", "max", "min"})
#: Kinds from the narrowest to the widest.
_ORDER = ("bool", "int", "float", "wide")

_FOLD: Mapping[str, Callable[..., Number]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "negative": lambda x: -x,
}


class Masked(float):
    """What takes the place of a masked score: whatever lies below it is as good.

    No other number is, though it be as large: −1e30 in a formula of somebody's own means −1e30.
    """


class Terms:
    """Makes terms, whose floats are of `dtype`. Equal ones are one: what two results have in common is one term.

    narrow    the integer operands of 32 bits
    places    the operands that index a factor, and so are no larger than a dim is long
    """

    def __init__(self, dtype: str = "float32", narrow: Iterable[str] = (), places: Iterable[str] = ()) -> None:
        self.dtype, self.narrow, self.places = dtype, frozenset(narrow), frozenset(places)
        self._made: dict[tuple[Any, ...], Term] = {}

    def leaf(self, operation: str, detail: Any, factors: Iterable[str], kind: str) -> Term:
        """What needs no other term."""
        return self._make(operation, (), detail, frozenset(factors), kind)

    def number(self, value: Number, kind: str | None = None) -> Term:
        """A number that is known; `kind` is that of what it meets, as Python's numbers have none of their own."""
        own = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
        return self.leaf("number", value, (), own if kind is None else kind)

    def apply(self, operation: str, *operands: Term, detail: Any = None) -> Term:
        """An operation on elements."""
        folded = self._fold(operation, operands)
        if folded is not None:
            return folded
        factors = frozenset().union(*(each.factors for each in operands))
        return self._make(operation, operands, detail, factors, _kind_of(operation, operands))

    def reduce(self, operation: str, X: Term, over: Iterable[str]) -> Term:
        """A sum, maximum or minimum over factors."""
        gone = tuple(sorted(over))
        if not gone:
            return X
        kind = "int" if X.kind == "bool" and operation == "sum" else X.kind
        return self._make(operation, (X,), gone, X.factors.difference(gone), kind)

    def at(self, X: Term, factor: str, where: Term) -> Term:
        """X where the index along `factor` is `where`."""
        if factor not in X.factors:
            return X
        return self._make("at", (X, where), factor, (X.factors - {factor}) | where.factors, X.kind)

    def convert(self, X: Term, kind: str, dtype: str | None = None) -> Term:
        """X as another kind of number, or, with `dtype`, as that holds it."""
        if dtype is not None:
            return self._make("round", (X,), dtype, X.factors, kind)
        if X.kind == kind:
            return X
        if X.operation == "number":
            if kind in ("float", "wide") and isinstance(X.detail, float):
                return self.number(X.detail, kind)
            value = {"bool": bool, "int": int}.get(kind, float)(X.detail)
            return self.number(value, kind)
        if X.operation == "where" and all(each.operation == "number" for each in X.operands[1:]):
            return self.apply("where", X.operands[0], *(self.convert(each, kind) for each in X.operands[1:]))
        return self._make("convert", (X,), kind, X.factors, kind)

    def primitive(self, name: str, operands: tuple[Term, ...], detail: Any, factors: Iterable[str], kind: str) -> Term:
        """What is not made of other operations."""
        return self._make(name, operands, detail, frozenset(factors), kind)

    def _fold(self, operation: str, operands: tuple[Term, ...]) -> Term | None:
        if operation in _FOLD and all(each.operation == "number" for each in operands):
            return self.number(_FOLD[operation](*(each.detail for each in operands)), _widest(operands))
        if operation == "where" and operands[0].operation == "number":
            return operands[1] if operands[0].detail else operands[2]
        return None

    def _make(
        self, operation: str, operands: tuple[Term, ...], detail: Any, factors: frozenset[str], kind: str
    ) -> Term:
        key = operation, tuple(map(id, operands)), exact(detail), isinstance(detail, Masked), factors, kind
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = Term(operation, operands, detail, factors, kind)
        return found


def _kind_of(operation: str, operands: tuple[Term, ...]) -> str:
    if operation in COMPARISONS or operation.startswith("logical") or operation == "isfinite":
        return "bool"
    if operation == "where":
        return _widest(operands[1:])
    kind = _widest(operands)
    if operation == "divide" or operation in FUNCTIONS - {"negative", "absolute"}:
        return "wide" if kind in ("int", "bool") else kind
    return "int" if kind == "bool" else kind


def _widest(operands: Iterable[Term]) -> str:
    """The kind of what is computed of these: of an array and a number that is known, the array's."""
    given = list(operands)
    return max((each.kind for each in given), key=_ORDER.index)


def walk(roots: Iterable[Term]) -> Iterator[Term]:
    """Every term that `roots` are made of, once, operands first."""
    seen: set[Term] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        term, done = stack.pop()
        if done:
            yield term
        elif term not in seen:
            seen.add(term)
            stack.append((term, True))
            stack.extend((each, False) for each in reversed(term.operands))


def rebuild(terms: Terms, roots: Mapping[str, Term], change: Any) -> dict[str, Term]:
    """`roots` with every term replaced by `change(terms, term, operands)`, or made anew of its new operands."""
    made: dict[Term, Term] = {}
    for term in walk(roots.values()):
        operands = tuple(made[each] for each in term.operands)
        changed = change(terms, term, operands)
        made[term] = again(terms, term, operands) if changed is None else changed
    return {name: made[root] for name, root in roots.items()}


def again(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term:
    """`term` with other operands."""
    if not operands:
        return terms.leaf(term.operation, term.detail, term.factors, term.kind)
    if term.operation in REDUCTIONS:
        return terms.reduce(term.operation, operands[0], term.detail)
    if term.operation == "at":
        return terms.at(operands[0], term.detail, operands[1])
    if term.operation == "convert":
        return terms.convert(operands[0], term.kind)
    if term.operation == "round":
        return terms.convert(operands[0], term.kind, term.detail)
    if term.detail is not None:
        return terms.primitive(term.operation, operands, term.detail, term.factors, term.kind)
    return terms.apply(term.operation, *operands)


def is_number(term: Term, value: Number) -> bool:
    """Whether a term is this very number."""
    return (
        term.operation == "number" and term.detail == value and math.copysign(1, term.detail) == math.copysign(1, value)
    )
