"""A formula as NumPy computes it best: which steps, in which order, and what of them is known before a run.

    recipe = recipe_of(formula)
    for step in recipe.steps: …

A *step* is a term that has to be computed. Numbers, operands, and what is the same in every run (how columns lie to
rows) are none. Formulas are first put into the forms that NumPy and BLAS are fast at; nothing here knows an operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from graphir.backends.rows.idioms import half_of_one_and, normal_of, times
from graphir.backends.rows.scalars import Scalars, can_be_scalars
from graphir.formula.terms import Masked, Term, Terms, rebuild, walk
from graphir.formula.trace import Formula

#: Operations that NumPy carries out in one call, element by element, so that the result may lie where an operand did.
UFUNCS = frozenset(
    {
        "add", "subtract", "multiply", "divide", "power", "remainder", "maximum", "minimum", "exp", "log", "sqrt",
        "tanh", "sin", "cos", "absolute", "square", "equal", "not_equal", "less", "less_equal",
        "logical_and", "logical_or", "logical_not", "isfinite",
    }
)  # fmt: skip
#: When results are copied to where they belong: behind every step.
LAST = 1 << 30
_LEAVES = frozenset({"operand", "number", "index", "start", "extent", "total", "attribute"})


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a formula is computed.

    results   what each output is, by name; with a `guard`, what it becomes where that holds
    old       with a guard, what each output is where it does not hold
    """

    formula: Formula
    results: Mapping[str, Term]
    guard: Term | None
    old: Mapping[str, Term]

    @cached_property
    def known(self) -> frozenset[Term]:
        """What is known before a run: what no operand has a part in."""
        found: set[Term] = set()
        for term in walk(self.results.values()):
            varies = term.operation in ("operand", "attribute") or any(each not in found for each in term.operands)
            if not varies:
                found.add(term)
        return frozenset(found)

    @cached_property
    def scalars(self) -> Scalars:
        """What is computed once a run, in double precision."""
        terms = self.scalar_terms
        return Scalars(tuple(each.operands[0] if each.operation == "convert" else each for each in terms))

    @cached_property
    def scalar_terms(self) -> tuple[Term, ...]:
        """The terms whose numbers `scalars` are."""
        return tuple(term for term in walk(self.results.values()) if self._is_scalar(term))

    def _is_scalar(self, term: Term) -> bool:
        if term.operation == "convert" and term.kind == "float" and term.operands[0].kind == "wide":
            return can_be_scalars(term.operands[0])
        return term in self.results.values() and term.kind == "wide" and can_be_scalars(term)

    def steps(self, wanted: Iterable[str]) -> tuple[Term, ...]:
        """What has to be computed for the outputs `wanted`, in order.

        Numbers of rows before what has all factors, which may lie in an operand's memory.
        """
        return _steps(self, tuple(sorted(wanted, key=lambda name: len(self.results[name].factors))))

    @cached_property
    def inplace(self) -> Mapping[str, tuple[str, ...]]:
        """For each output the operands whose memory it may be given, those first that are let go of first.

        Whatever memory an output is given, results are right; these are the operands that nothing is copied for.
        """
        if self.guard is not None:
            # Where it does not hold, the old is copied before anything is computed.
            return {name: (term.detail,) for name, term in self.old.items()}
        steps = {term: i for i, term in enumerate(self.steps(self.results))}
        last: dict[str, int] = {}
        for term in (*steps, *self.results.values()):
            for each in term.operands:
                if each.operation == "operand":
                    last[each.detail] = max(last.get(each.detail, -1), steps.get(term, len(steps)))
        # Where one result is an operand, no other may be written over it without a copy.
        last |= {root.detail: len(steps) + 1 for root in self.results.values() if root.operation == "operand"}
        elsewhere = {
            each.detail
            for term in steps
            if term.operation == "at"
            for each in parts_of(term)
            if each.operation == "operand"
        }
        found = {}
        for name, root in self.results.items():
            made = steps.get(root, len(steps))
            own = root.detail if root.operation == "operand" else None
            # What is not simple would have to be made elsewhere, and copied.
            read = made if root not in steps or is_simple(root) else made - 1
            free = (each for each, until in last.items() if until <= read or each == own)
            found[name] = tuple(sorted((each for each in free if each not in elsewhere), key=last.__getitem__))
        return found


@lru_cache(maxsize=4096)
def recipe_of(formula: Formula, guarded: bool = True) -> Recipe:
    """How a formula is computed; `guarded`: whether one condition may decide about all of it, before any of it is."""
    terms = formula.terms
    results = dict(formula.results)
    guard = _guard(results) if guarded else None
    old: dict[str, Term] = {}
    if guard is not None:
        old = {name: root.operands[2] for name, root in results.items()}
        results = {name: root.operands[1] for name, root in results.items()}
    for change in (_gates, _negated, _split_conditions, _squares):
        results = rebuild(terms, results, change)
    return Recipe(formula, results, guard, old)


@lru_cache(maxsize=4096)
def _steps(recipe: Recipe, wanted: tuple[str, ...]) -> tuple[Term, ...]:
    roots = [recipe.results[name] for name in wanted]
    scalars = set(recipe.scalar_terms)
    found: dict[Term, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        term, done = stack.pop()
        if done:
            found[term] = None
        elif not (term in found or term in scalars or term in recipe.known or term.operation in _LEAVES):
            stack.append((term, True))
            stack.extend((each, False) for each in reversed(parts_of(term)))
    return tuple(found)


@lru_cache(maxsize=4096)
def last_reads(steps: tuple[Term, ...], roots: frozenset[Term]) -> Mapping[Term, int]:
    """By which of the `steps` each term is read for the last time; `roots`, which are results, behind all of them."""
    last: dict[Term, int] = dict.fromkeys(roots, LAST)
    for position, term in reversed(list(enumerate(steps))):
        until = last.get(term, position) if is_view(term) else position
        for each in parts_of(term):
            last[each] = max(last.get(each, -1), until)
    return last


def parts_of(term: Term) -> tuple[Term, ...]:
    """What a step reads: of a sum of products the factors, for the product is not made."""
    if term.operation == "sum":
        return sum_of_products(term) or _counted(term)
    return term.operands


def is_simple(term: Term) -> bool:
    """Whether a step reads each element of its operands before it writes the same one."""
    return is_masked_number(term.operands[2]) if term.operation == "where" else term.operation in UFUNCS


def is_view(term: Term) -> bool:
    """Whether a step is a part of its operand's memory."""
    return term.operation == "at" and term.operands[1].operation == "number"


def whole_of(term: Term) -> Term:
    """What a term is a part of, or itself."""
    return whole_of(term.operands[0]) if is_view(term) else term


def sum_of_products(term: Term) -> tuple[Term, ...]:
    """The two factors of what a sum adds up, where BLAS adds up products; else nothing."""
    (body,) = term.operands
    if body.operation == "square":
        return body.operands[0], body.operands[0]
    if body.operation != "multiply" or {each.kind for each in body.operands} != {"float"}:
        return ()
    X, Y = body.operands
    if any(each.operation == "number" for each in (X, Y)):
        return ()
    over, both = set(term.detail), X.factors | Y.factors
    # Of what is the same in all terms of a sum a product would be made at its end, which is another sum where one of
    # the terms is infinite.
    fits = (X.factors == Y.factors == both) or any(
        one.factors == both and other.factors <= over for one, other in ((X, Y), (Y, X))
    )
    return (X, Y) if fits else ()


def _counted(term: Term) -> tuple[Term, ...]:
    """Of a sum of 0 and 1 the conditions themselves."""
    (body,) = term.operands
    return body.operands if body.operation == "convert" and body.operands[0].kind == "bool" else (body,)


# -- forms that NumPy is fast at ----------------------------------------------------------------------------


def _guard(results: Mapping[str, Term]) -> Term | None:
    """The condition that decides whether any output changes, where one decides all."""
    chosen = [root.operation == "where" and root.operands[2].operation == "operand" for root in results.values()]
    guards = {root.operands[0] if all(chosen) else None for root in results.values()}
    if len(guards) != 1:
        return None
    (guard,) = guards
    return guard if guard is not None and guard.operation == "operand" and not guard.factors else None


def _negated(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term | None:
    """−X as a product: in place, of elements that lie 16 bytes apart, np.negative of NumPy 2.4 makes zeros."""
    if term.operation == "negative":
        return terms.apply("multiply", operands[0], terms.convert(terms.number(-1.0), term.kind))
    return None


def _split_conditions(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term | None:
    """A score that two conditions mask is masked by one after the other."""
    if term.operation == "where" and operands[0].operation == "logical_and" and is_masked_number(operands[2]):
        one, other = operands[0].operands
        return terms.apply("where", other, terms.apply("where", one, operands[1], operands[2]), operands[2])
    if term.operation == "multiply":
        for X, condition in (operands, reversed(operands)):
            if condition.operation == "logical_and" and X.kind == "float":
                one, other = condition.operands
                return terms.apply("multiply", terms.apply("multiply", X, one), other)
    return None


def is_masked_number(term: Term) -> bool:
    """Whether a term is what takes the place of a masked score: whatever lies below it is as good.

    No other number is: −1e30 in a formula of somebody's own means −1e30, also in place of a NaN.
    """
    return term.operation == "number" and term.kind == "float" and isinstance(term.detail, Masked)


def _gates(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term | None:
    """½ (1 + tanh u) as 1 / (1 + exp(−2u)), for exp takes half of tanh's time, and is exact to 0; it may be infinite.

    Of float32, Φ by a polynomial: six times as fast as erf, which is exact to the last place.
    """
    if term.operation != "multiply":
        return None
    u = half_of_one_and("tanh", *operands)
    if u is not None:
        one = terms.number(1.0, term.kind)
        return terms.apply("divide", one, terms.apply("add", terms.apply("exp", times(terms, u, -2.0)), one))
    return normal_of(terms, *operands) if terms.dtype == "float32" else None


def _squares(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term | None:
    if term.operation == "multiply" and operands[0] is operands[1] and term.kind == "float":
        return terms.primitive("square", operands[:1], None, term.factors, "float")
    if term.operation == "power" and operands[1].operation == "number" and operands[1].detail == 2:
        return terms.primitive("square", operands[:1], None, term.factors, term.kind)
    if term.operation == "power" and operands[1].operation == "number" and operands[1].detail == 0.5:
        return terms.apply("sqrt", operands[0])
    return None
