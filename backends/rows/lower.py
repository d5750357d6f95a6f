"""From a formula to expressions over one row: which of its factors are columns, which are rows, and what is a number.

A formula's terms are over the factors of its node; a run has one axis of columns, and all others are rows. A term that
depends on the columns is of each element, any other one a number of the row. A sum over the columns is the row's; one
over rows has to be the last thing that is done, for the kernel adds rows up as it stores. Integers are kept as sums of
an index, of where blocks begin, and of numbers, so that what is known of a row's place is one number (`Row.ramp`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from graphir.backends.rows.draws import draw_mask
from graphir.backends.rows.expressions import Expression, Row, ramp_of
from graphir.backends.rows.idioms import with_idioms
from graphir.backends.rows.scalars import Scalars, can_be_scalars, write_scalars
from graphir.formula.places import Sum, sum_of
from graphir.formula.terms import COMPARISONS, REDUCTIONS, Term, walk
from graphir.formula.trace import Formula
from graphir.ir.signature import is_literal

#: Formulas of more terms are kernels of their own: what writes them goes from term to term by recursion.
_MOST_TERMS = 256


class NoRowError(Exception):
    """What of a formula cannot be computed row by row."""


@dataclass(frozen=True)
class Cut:
    """How a node's factors lie in a run: those of the columns, in order, and all others it has, which are rows."""

    columns: tuple[str, ...]
    rows: frozenset[str]


@lru_cache(maxsize=4096)
def rewritten(formula: Formula) -> Mapping[str, Term]:
    """A formula's results as kernels compute them."""
    return with_idioms(formula.terms, dict(formula.results))


@lru_cache(maxsize=4096)
def columns_of(formula: Formula) -> frozenset[str]:
    """The factors that have to be columns: of sums and maxima that something follows from, of what is picked."""
    roots = rewritten(formula).values()
    last = {root for root in roots if root.operation == "sum"}
    found: set[str] = set()
    for term in walk(roots):
        if term.operation in REDUCTIONS and term not in last:
            found.update(term.detail)
        elif term.operation == "at" and not is_literal(term.detail):
            found.add(term.detail)
        elif term.operation == "extent":
            found.update(term.detail)
        if any(each in last for each in term.operands):
            found.update(*(each.detail for each in term.operands if each in last))
    return frozenset(found)


@lru_cache(maxsize=4096)
def why_not(formula: Formula, cut: Cut) -> str:
    """What keeps a formula from being computed row by row; "" where nothing does."""
    if len(formula.all_terms) > _MOST_TERMS:
        return f"it has {len(formula.all_terms)} terms"
    row = Row()
    operands = {}
    for i, each in enumerate(formula.rule.inputs):
        has_columns = bool(set(each.factors) & set(cut.columns))
        operands[each.name] = row.leaf("load", i, each=has_columns)
    try:
        lower(row, formula, cut, operands)
    except NoRowError as error:
        return str(error)
    return ""


def lower(row: Row, formula: Formula, cut: Cut, operands: Mapping[str, Expression]) -> dict[str, Expression]:
    """The expression of each result, by the names of the rule's outputs; NoRowError where one has none.

    `operands` are those of the formula's operands. A result that lacks rows is the sum over them of its expression.
    """
    lowering = _Lowering(row, formula, cut, operands)
    results = rewritten(formula)
    lowering.prepare(list(results.values()))
    outputs = {each.name: frozenset(each.factors) for each in formula.rule.outputs}
    return {name: lowering.result(term, outputs[name]) for name, term in results.items()}


class _Lowering:
    def __init__(self, row: Row, formula: Formula, cut: Cut, operands: Mapping[str, Expression]) -> None:
        rule = formula.rule
        self.row, self.cut, self.operands, self.wide = row, cut, operands, formula.terms.dtype == "float64"
        #: The operands that index a factor.
        self.indices = {each.name for each in rule.inputs if each.indexes is not None}
        self.narrow = formula.terms.narrow
        self._axes = {each.name: [axis.factors for axis in each.axes] for each in rule.inputs}
        self._known: dict[Hashable, Expression] = {}
        #: Factors along which one place is meant, each with its number.
        self._places: dict[str, Expression] = {}
        self._ramps: dict[Hashable, Expression] = {}

    # -- numbers of a run -----------------------------------------------------------------------------

    def prepare(self, roots: list[Term]) -> None:
        """Finds what is computed once a run, in double precision: all of one node's such numbers together."""
        found: dict[Term, Term] = {}
        for term in walk(roots):
            if term.operation == "convert" and term.kind == "float" and term.operands[0].kind == "wide":
                found[term] = term.operands[0]
        found.update((root, root) for root in roots if root.kind == "wide")
        scalars = {term: inside for term, inside in found.items() if can_be_scalars(inside)}
        if scalars:
            program = Scalars(tuple(scalars.values()))
            given = [self.operands[name] for name in program.operands]
            made = self.row.prepare(write_scalars, len(scalars), program, *given)
            self._known.update(((term, ()), number) for term, number in zip(scalars, made, strict=True))

    # -- results --------------------------------------------------------------------------------------

    def result(self, term: Term, factors: frozenset[str]) -> Expression:
        gone = self.cut.rows - factors
        if not gone:
            return self._of(term)
        if term.operation != "sum" or not gone <= set(term.detail):
            raise NoRowError(f"it is no sum over {', '.join(sorted(gone))} of what is computed row by row")
        over = set(term.detail) - gone
        body = self._of(term.operands[0])
        if not over:
            return body
        return self._over_columns("sum", term.operands[0], over, body)

    def _over_columns(self, operation: str, inside: Term, over: set[str], body: Expression) -> Expression:
        columns = set(self.cut.columns) & inside.factors
        if over != columns:
            raise NoRowError(f"it goes over {', '.join(sorted(over))}, which are not the columns")
        match operation:
            case "sum":
                return self.row.sum(body)
            case "max":
                return self.row.max(body)
        return self._negative(self.row.max(self._negative(body)))

    def _negative(self, X: Expression) -> Expression:
        return X * -1.0

    # -- floats and conditions ------------------------------------------------------------------------

    def _of(self, term: Term) -> Expression:
        """The expression of a term, a condition or a number; integers are made of their sums."""
        key = term, tuple((factor, each) for factor, each in self._places.items() if factor in term.factors)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._integer(term) if term.kind == "int" else self._made(term)
        return found

    def _number(self, term: Term) -> Expression:
        """As `_of`, a condition as 1 or 0."""
        made = self._of(term)
        return self.row.number_of(made) if term.kind == "bool" else self._real(term, made)

    def _real(self, term: Term, made: Expression) -> Expression:
        return self.row.apply("real", made) if term.kind == "int" else made

    def _made(self, term: Term) -> Expression:
        row, given = self.row, term.operands
        match term.operation:
            case "operand":
                return self._loaded(term)
            case "number":
                if term.kind == "bool":
                    return row.compare(row.leaf("integer", int(not term.detail)), "==", 0)
                return row.number(float(term.detail))
            case "convert":
                return self._converted(term)
            case "round":
                return row.apply("round", self._of(given[0]), detail=term.detail)
            case "where":
                made = [self._of(each) if each.kind == term.kind else self._number(each) for each in given[1:]]
                return row.choose(self._of(given[0]), *made)
            case "at":
                return self._picked(term)
            case "keep":
                return draw_mask(row, self._of(given[0]), self._of(given[1]), self.cut.columns, *term.detail)
            case "negative":
                return self._negative(self._number(given[0]))
        if term.operation in REDUCTIONS:
            return self._over_columns(term.operation, given[0], set(term.detail), self._number(given[0]))
        if term.operation in COMPARISONS:
            return self._compared(term)
        if term.operation in ("logical_and", "logical_or", "logical_not"):
            return row.apply(term.operation.removeprefix("logical_"), *(self._of(each) for each in given))
        if term.operation in _ELEMENTWISE:
            return self._applied(term)
        raise NoRowError(f"kernels have no {term.operation}")

    def _converted(self, term: Term) -> Expression:
        (X,) = term.operands
        if term.kind == "bool":
            return self.row.apply("not", self.row.is_zero(self._number(X)))
        if X.operation == "extent":
            if set(X.detail) != set(self.cut.columns):
                raise NoRowError(f"it asks how long {', '.join(X.detail)} is")
            return self.row.width
        return self._number(X)

    def _applied(self, term: Term) -> Expression:
        operation = _ELEMENTWISE[term.operation]
        if term.kind == "wide" and not self.wide:
            raise NoRowError("it computes in double precision")
        given = [self._number(each) for each in term.operands]
        return self.row.apply(operation, *given)

    def _picked(self, term: Term) -> Expression:
        """One place along a factor: of a row's elements one, or what lies in other columns."""
        (X, where), factor = term.operands, term.detail
        column = self._of(where)
        if (factor,) == self.cut.columns and not column.each:
            inside = self._of(X)
            return self.row.pick(inside, column) if inside.each else inside
        saved, self._places = self._places, {**self._places, factor: column}
        made = self._of(X)
        self._places = saved
        return made

    # -- columns --------------------------------------------------------------------------------------

    def _loaded(self, term: Term) -> Expression:
        """An operand's element: in the column at hand, or, where it has other columns, in that which lies there."""
        leaf, columns = self.operands[term.detail], self.cut.columns
        mine = [axis for axis in self._axes[term.detail] if set(axis) & {*columns, *self._places}]
        if not mine or (mine == [columns] and not set(columns) & self._places.keys()):
            if term.factors - self.cut.rows - set(columns):
                raise NoRowError(f"{term.detail} has more than rows and columns")
            return leaf
        if len(mine) > 1 or not set(mine[0]) <= {*columns, *self._places}:
            raise NoRowError(f"it reads {term.detail} along {', '.join(map(str, mine))}")
        place = self.row.leaf("integer", 0)
        for factor in mine[0]:
            place = self._plus(self._times(place, self._length(factor)), self._index(factor))
        return self.row.gather(leaf, place)

    def _index(self, factor: str) -> Expression:
        """The index along a factor of the columns, or the place that is meant."""
        if factor in self._places:
            return self._places[factor]
        columns = self.cut.columns
        if factor not in columns:
            raise NoRowError(f"it asks for the index along {factor}, which is no part of the columns")
        made = self.row.column
        if len(columns) == 1:
            return made
        at = columns.index(factor)
        inner = self.row.leaf("integer", 1)
        for each in columns[at + 1 :]:
            inner = self._times(inner, self._length(each))
        made = made if at == len(columns) - 1 else self.row.apply("quotient", made, inner)
        return made if at == 0 else self.row.apply("rest", made, self._length(factor))

    def _length(self, factor: str) -> Expression:
        """How long the columns are along a factor."""
        if is_literal(factor):
            return self.row.leaf("integer", int(factor))
        others = [each for each in self.cut.columns if each != factor]
        if factor not in self.cut.columns or not all(map(is_literal, others)):
            raise NoRowError(f"it asks how long {factor} is")
        if not others:
            return self.row.count
        return self.row.apply("quotient", self.row.count, self.row.leaf("integer", math.prod(map(int, others))))

    def _times(self, X: Expression, Y: Expression) -> Expression:
        if (X.operation, X.detail) == ("integer", 0) or (Y.operation, Y.detail) == ("integer", 1):
            return X
        if (X.operation, X.detail) == ("integer", 1):
            return Y
        return self.row.apply("times", X, Y)

    def _plus(self, X: Expression, Y: Expression) -> Expression:
        return Y if (X.operation, X.detail) == ("integer", 0) else self.row.apply("plus", X, Y)

    # -- conditions -----------------------------------------------------------------------------------

    def _compared(self, term: Term) -> Expression:
        X, Y = term.operands
        if {X.kind, Y.kind} <= {"int", "bool"}:
            return self._compared_integers(term)
        one, other = self._number(X), self._number(Y)
        if Y.operation == "number" and Y.detail == 0 and term.operation == "equal":
            return self.row.is_zero(one)
        return self.row.apply(_COMPARED[term.operation], one, other)

    # -- integers -------------------------------------------------------------------------------------

    def _compared_integers(self, term: Term) -> Expression:
        """What follows from a place goes to one side, so that the other is a column, or one integer of the row."""
        sign = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<="}[term.operation]
        if not all(map(self._is_moderate, walk(term.operands))):
            # They may begin anew at the other end: what is said of X + 1 > Y is not what is said of X > Y - 1.
            one, other = map(self._integer, term.operands)
            return self.row.compare(one, sign, other, moderate=False)
        difference = sum_of(term.operands[0]).plus(sum_of(term.operands[1]), -1)
        columns = [("index", factor) for factor in (*self.cut.columns, *self._places)]
        column = next((each for each in columns if each in difference.places), ("", ""))
        places, others = dict(difference.places), difference.others
        if column in places:
            kept = Sum(places={column: places.pop(column)})
        else:
            kept, others = Sum(others=others[:1]), others[1:]
        rest = Sum(difference.constant, places, others).times(-1)
        if any(count < 0 for count in (*kept.places.values(), *(count for count, _ in kept.others))):
            return self.row.compare(self._made_of(rest.times(-1)), sign, self._made_of(kept.times(-1)))
        return self.row.compare(self._made_of(kept), sign, self._made_of(rest))

    def _is_moderate(self, term: Term) -> bool:
        """Whether an integer is no longer than dims are, so that 32 bits hold it, and a few of them added up."""
        if term.operation == "operand" and term.kind == "int":
            return term.detail in self.indices
        return term.operation != "number" or term.kind != "int" or abs(term.detail) < 1 << 30

    def _is_short(self, term: Term) -> bool:
        """Whether 64 bits hold sums of an integer."""
        return self._is_moderate(term) or (term.operation == "operand" and term.detail in self.narrow)

    def _integer(self, term: Term) -> Expression:
        return self._made_of(sum_of(term))

    def _other(self, term: Term) -> Expression:
        """An integer that is no sum."""
        row = self.row
        match term.operation:
            case "operand":
                return self._loaded(term)
            case "extent" if set(term.detail) == set(self.cut.columns):
                return row.count
            case "where":
                one, other = (self._integer(each) for each in term.operands[1:])
                return row.choose(self._of(term.operands[0]), one, other)
            case "round":
                return row.apply("narrow", self._integer(term.operands[0]))
            case "convert" if term.operands[0].kind == "bool":
                return row.choose(self._of(term.operands[0]), row.leaf("integer", 1), row.leaf("integer", 0))
            case "multiply":
                for X, Y in (term.operands, reversed(term.operands)):
                    if Y.kind == "bool":
                        return row.choose(self._of(Y), self._integer(X), row.leaf("integer", 0))
        raise NoRowError(f"kernels have no {term.operation} of integers")

    def _made_of(self, given: Sum) -> Expression:
        row, places = self.row, dict(given.places)
        made: Expression | None = None
        short = all(map(self._is_short, walk(term for _, term in given.others)))
        minus = "minus" if short else "minus long"
        for factor in (*self.cut.columns, *self._places):
            if ("index", factor) in places:
                if made is not None or places.pop(("index", factor)) != 1:
                    raise NoRowError("it computes with the column's number")
                made = self._index(factor)
        for count, term in given.others:
            each = self._other(term)
            if count == 1 and made is None:
                made = each
            elif abs(count) == 1:
                left = row.leaf("integer", 0) if made is None else made
                made = row.apply(minus, left, each if count < 0 else row.apply(minus, row.leaf("integer", 0), each))
            else:
                raise NoRowError("kernels have no product of integers")
        rest = Sum(given.constant, places)
        if not places:
            if made is None:
                return row.leaf("integer", given.constant)
            return made if not given.constant else row.apply(minus, made, row.leaf("integer", -given.constant))
        return self._ramp(rest) if made is None else row.apply(minus, made, self._ramp(rest.times(-1)))

    def _ramp(self, given: Sum) -> Expression:
        key = given.constant, tuple(sorted(given.places.items()))
        found = self._ramps.get(key)
        if found is None:
            found = self._ramps[key] = self.row.ramp(ramp_of(given))
        return found


_COMPARED = {"equal": "same", "not_equal": "other", "less": "less", "less_equal": "at most"}
_ELEMENTWISE = {
    **{name: name for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "remainder")},
    **{name: name for name in ("exp", "log", "sqrt", "sigmoid", "normal", "tanh", "sin", "cos", "erf", "absolute")},
    "isfinite": "finite",
}
