"""What is put otherwise before it is written, as kernels have functions for it: σ and Φ, powers, products of numbers.

Nothing here knows an operator: a formula is rewritten term by term.
"""

from __future__ import annotations

import math

from graphir.formula.terms import Term, Terms, rebuild


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
            # Counted in floats.
            (inside,) = operands[0].operands
            return terms.reduce("sum", terms.convert(inside, term.kind), operands[0].detail)
    return None


def _product(terms: Terms, X: Term, Y: Term) -> Term | None:
    """½ (1 + tanh u) = σ(2u), ½ (1 + erf u) = Φ(√2 u); numbers are multiplied up, and by a condition one chooses."""
    if X.operation == "number":
        X, Y = Y, X
    if Y.operation == "number" and X.kind == "bool" and Y.kind == "float":
        return terms.apply("where", X, Y, terms.number(0.0, "float"))
    if Y.operation == "number":
        gate = _one_and(X) if Y.detail == 0.5 else None
        if gate is not None and gate.operation == "tanh":
            return terms.apply("sigmoid", times(terms, gate.operands[0], 2.0))
        return normal_of(terms, X, Y) or times(terms, X, Y.detail)
    if Y.kind == "bool" and X.kind == "float":
        return _chosen(terms, X, Y)
    if X.kind == "bool" and Y.kind == "float":
        return _chosen(terms, Y, X)
    return None


def normal_of(terms: Terms, X: Term, Y: Term) -> Term | None:
    """½ (1 + erf u) = Φ(√2 u), if that is the product."""
    for one, other in ((X, Y), (Y, X)):
        erf = _one_and(one) if other.operation == "number" and other.detail == 0.5 else None
        if erf is not None and erf.operation == "erf":
            return terms.apply("normal", times(terms, erf.operands[0], math.sqrt(2)))
    return None


def times(terms: Terms, X: Term, number: float) -> Term:
    """X times a number, put together with one that X is a product of."""
    if X.operation == "multiply":
        for one, other in (X.operands, reversed(X.operands)):
            if other.operation == "number":
                return times(terms, one, other.detail * number)
    if math.isclose(number, 1, rel_tol=1e-15) and X.kind == "float":
        return X
    return terms.apply("multiply", X, terms.number(number, X.kind))


def _one_and(X: Term) -> Term | None:
    """Y of 1 + Y."""
    if X.operation == "add":
        for one, other in (X.operands, reversed(X.operands)):
            if one.operation == "number" and one.detail == 1:
                return other
    return None


def _chosen(terms: Terms, X: Term, condition: Term) -> Term:
    """X ⊙ condition: a product still, so that NaN and infinity stay visible."""
    if X.operation == "multiply" and X.operands[1].operation == "number":
        X, number = X.operands
        return terms.apply("multiply", X, terms.apply("where", condition, number, terms.number(0.0, "float")))
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
