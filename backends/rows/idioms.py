"""What is put otherwise before it is written, as kernels have functions for it: σ and Φ, powers.

Nothing here knows an operator: a formula is rewritten term by term.
"""

from __future__ import annotations

import math

from graphir.formula.terms import Term, Terms, rebuild

#: Numbers up to here, and from its inverse on, are multiplied up.
_MODEST = 2.0**20


def with_idioms(terms: Terms, results: dict[str, Term]) -> dict[str, Term]:
    """`results` rewritten."""
    return rebuild(terms, results, _rewritten)


def _rewritten(terms: Terms, term: Term, operands: tuple[Term, ...]) -> Term | None:
    match term.operation:
        case "multiply":
            return _product(terms, *operands)
        case "power":
            return _power(terms, *operands)
        case "convert" if operands[0].operation == "sum" and term.kind in ("float", "wide"):
            # Counted in floats, which integers of any size would not fit in.
            (inside,) = operands[0].operands
            if inside.kind != "bool":
                return None
            return terms.reduce("sum", terms.convert(inside, term.kind), operands[0].detail)
    return None


def _product(terms: Terms, X: Term, Y: Term) -> Term | None:
    """½ (1 + tanh u) = σ(2u), ½ (1 + erf u) = Φ(√2 u), and by a condition one chooses."""
    if "number" in (X.operation, Y.operation):
        u = half_of_one_and("tanh", X, Y)
        return normal_of(terms, X, Y) if u is None else terms.apply("sigmoid", times(terms, u, 2.0))
    if Y.kind == "bool" and X.kind == "float":
        return _chosen(terms, X, Y)
    if X.kind == "bool" and Y.kind == "float":
        return _chosen(terms, Y, X)
    return None


def normal_of(terms: Terms, X: Term, Y: Term) -> Term | None:
    """½ (1 + erf u) = Φ(√2 u), if that is the product."""
    u = half_of_one_and("erf", X, Y)
    return None if u is None else terms.apply("normal", times(terms, u, math.sqrt(2)))


def half_of_one_and(function: str, X: Term, Y: Term) -> Term | None:
    """u, if the product is ½ (1 + function(u))."""
    for one, other in ((X, Y), (Y, X)):
        found = _one_and(one) if other.operation == "number" and other.detail == 0.5 else None
        if found is not None and found.operation == function:
            return found.operands[0]
    return None


def times(terms: Terms, X: Term, number: float) -> Term:
    """X times a number, put together with one that X is a product of, as the argument of σ or Φ.

    There, and for numbers such as these, it does not matter that c₁X may be infinite where c₁c₂X is not: σ and Φ are 0
    or 1 at both. In any other product it would.
    """
    if X.operation == "multiply":
        for one, other in (X.operands, reversed(X.operands)):
            if other.operation == "number" and all(map(_is_modest, (other.detail, other.detail * number))):
                return times(terms, one, other.detail * number)
    if math.isclose(number, 1, rel_tol=1e-15) and X.kind == "float":
        return X
    return terms.apply("multiply", X, terms.number(number, X.kind))


def _is_modest(number: float) -> bool:
    return 1 / _MODEST <= abs(number) <= _MODEST


def _one_and(X: Term) -> Term | None:
    """Y of 1 + Y."""
    if X.operation == "add":
        for one, other in (X.operands, reversed(X.operands)):
            if one.operation == "number" and one.detail == 1:
                return other
    return None


def _chosen(terms: Terms, X: Term, condition: Term) -> Term:
    """X ⊙ condition: a product still, so that NaN and infinity stay visible."""
    factor = terms.apply("where", condition, terms.number(1.0, "float"), terms.number(0.0, "float"))
    return terms.apply("multiply", X, factor)


def _power(terms: Terms, X: Term, Y: Term) -> Term | None:
    if Y.operation != "number" or X.kind not in ("float", "wide"):
        return None
    match Y.detail:
        case 2:
            return terms.apply("multiply", X, X)
        case 0.5:
            return terms.apply("sqrt", X)
        case 1:
            return X
        case -1:
            return terms.apply("divide", terms.number(1.0, X.kind), X)
    return None
