"""Formulas as text to be read: `X/√(mean(X²)+ε)·γ`.

A term has no shape, so neither has its text: operations go element by element, sums and means over the factors that
they say. What cannot be said briefly, an element's place or sums in several directions, has no text; whoever asks then
shows the operator's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import IntEnum

from graphir.formula.terms import REDUCTIONS, Number, Term, is_number, walk
from graphir.formula.trace import Formula, formula_of
from graphir.ir.dims import Dim
from graphir.ir.graph import Node

#: A label's length, beyond which a name says more; of so many terms none would be as short.
LONGEST, _MOST_TERMS = 40, 64

_LETTERS = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε", "theta": "θ"}
_LETTERS |= {"lambda_": "λ", "mu": "μ", "sigma": "σ", "tau": "τ", "phi": "φ", "omega": "ω"}
_CONSTANTS = {math.pi: "π", math.sqrt(2): "√2", math.sqrt(2 / math.pi): "√(2/π)", math.inf: "∞"}
_SUPERSCRIPTS, _SUBSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"), str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_CALLS = {"exp": "exp", "log": "log", "tanh": "tanh", "sin": "sin", "cos": "cos", "erf": "erf"}
_CALLS |= {"maximum": "max", "minimum": "min", "max": "max", "min": "min"}
_COMPARED = {"equal": "=", "not_equal": "≠", "less": "<", "less_equal": "≤"}


class _Binds(IntEnum):
    """How strongly a text holds together: what binds less than its place asks is bracketed."""

    CHOICE, COMPARISON, NEGATIVE, SUM, PRODUCT, POWER, WHOLE = range(7)


class _UnreadableError(Exception):
    """A formula has no text."""


def spell(node: Node) -> str | None:
    """What a node's operator computes, beside statistics for its d-node; None where that is not short and plain."""
    attributes = {name: value for name, value in node.attributes.items() if name in node.operator.attributes}
    shown = [each.name for each in node.inference.rule.outputs if each.name not in node.operator.auxiliary]
    if len(shown) != 1 or any(isinstance(value, Dim | tuple) for value in attributes.values()):
        return None
    formula = formula_of(node, attributes)
    if not isinstance(formula, Formula):
        return None
    named = {value: _letter(name) for name, value in attributes.items() if isinstance(value, float)}
    return spell_term(formula.results[shown[0]], named)


def spell_term(term: Term, named: Mapping[Number, str]) -> str | None:
    """The text of a term, None if it has none; `named` are numbers that have a name."""
    terms = list(walk([term]))
    directions = {each.detail for each in terms if each.operation in REDUCTIONS}
    if len(terms) > _MOST_TERMS or len(directions) > 1:
        return None
    try:
        text = _Speller(named).text(term)
    except _UnreadableError:
        return None
    return text if len(text) <= LONGEST else None


class _Speller:
    def __init__(self, named: Mapping[Number, str]) -> None:
        # A whole number is more often a power or a count than the attribute that happens to be as large.
        self.named = {value: name for value, name in named.items() if value % 1}

    def text(self, term: Term, place: _Binds = _Binds.CHOICE) -> str:
        """The text of `term` where it stands beside signs that bind as strongly as `place`."""
        text, binds = self._spell(term)
        if len(text) > 2 * LONGEST:
            # What several terms share is written for each of them: text may be far longer than a formula.
            raise _UnreadableError
        return text if binds >= place else f"({text})"

    def _spell(self, term: Term) -> tuple[str, _Binds]:
        operation, operands = term.operation, term.operands
        logit, mean = _logit(term), _averaged(term)
        if logit is not None:
            return f"σ({self.text(logit)})", _Binds.WHOLE
        if mean is not None:
            return f"mean({self.text(mean)})", _Binds.WHOLE
        match operation:
            case "operand":
                return _letter(term.detail), _Binds.WHOLE
            case "number":
                return self._number(term.detail)
            case "convert" | "round":
                return self._spell(operands[0])
            case "add" | "subtract":
                return self._sum(operation, *operands)
            case "negative":
                return f"−{self.text(operands[0], _Binds.PRODUCT)}", _Binds.NEGATIVE
            case "multiply" | "divide" | "power":
                return self._product(term)
            case "sqrt":
                return f"√{self.text(operands[0], _Binds.WHOLE)}", _Binds.POWER
            case "absolute":
                return f"|{self.text(operands[0])}|", _Binds.WHOLE
            case "sum":
                return f"Σ{self.text(operands[0], _Binds.POWER)}", _Binds.POWER
            case "at":
                return _part(term), _Binds.WHOLE
            case "where":
                return self._choice(term)
        if operation in _COMPARED:
            given = (self.text(each, _Binds.NEGATIVE) for each in operands)
            return _COMPARED[operation].join(given), _Binds.COMPARISON
        if operation in _CALLS:
            return f"{_CALLS[operation]}({', '.join(map(self.text, operands))})", _Binds.WHOLE
        raise _UnreadableError

    def _number(self, value: Number) -> tuple[str, _Binds]:
        if value in self.named:
            return self.named[value], _Binds.WHOLE
        if value < 0:
            return f"−{self._number(-value)[0]}", _Binds.NEGATIVE
        known = _constant(value)
        if known is not None:
            return known, _Binds.POWER
        digits, _, power = f"{value:g}".partition("e")
        if float(f"{value:g}") != value:
            raise _UnreadableError
        if not power:
            return digits, _Binds.WHOLE
        tens = f"10{str(int(power)).translate(_SUPERSCRIPTS)}"
        return (tens, _Binds.POWER) if digits == "1" else (f"{digits}·{tens}", _Binds.PRODUCT)

    def _sum(self, operation: str, one: Term, other: Term) -> tuple[str, _Binds]:
        sign = "+" if operation == "add" else "−"
        if sign == "+" and other.operation == "negative":
            sign, other = "−", other.operands[0]
        right = self.text(other, _Binds.SUM if sign == "+" else _Binds.PRODUCT)
        return f"{self.text(one, _Binds.NEGATIVE)}{sign}{right}", _Binds.SUM

    def _product(self, term: Term) -> tuple[str, _Binds]:
        """A fraction: the factors in the order in which they are written, equal ones as a power."""
        powers: dict[tuple[Term, bool], int] = {}
        for factor, divides, power in _factors(term):
            powers[factor, divides] = powers.get((factor, divides), 0) + power
        if list(powers.values()) == [1] and not next(iter(powers))[1]:
            return self._spell(next(iter(powers))[0])
        above = [self._power(factor, power) for (factor, divides), power in powers.items() if not divides]
        below = [self._power(factor, power) for (factor, divides), power in powers.items() if divides]
        if len(above) == 1 and not below:
            return above[0], _Binds.POWER
        under = f"({'·'.join(below)})" if len(below) > 1 else "".join(below)
        return ("·".join(above) or "1") + (f"/{under}" if under else ""), _Binds.PRODUCT

    def _power(self, base: Term, power: int) -> str:
        raised = "" if power == 1 else str(power).translate(_SUPERSCRIPTS)
        return self.text(base, _Binds.WHOLE if raised else _Binds.POWER) + raised

    def _choice(self, term: Term) -> tuple[str, _Binds]:
        parts = list(_side_by_side(term))
        if len(parts) > 1:
            return f"({', '.join(map(self.text, parts))})", _Binds.WHOLE
        condition, one, other = (self.text(each, _Binds.COMPARISON) for each in term.operands)
        return f"{one} if {condition} else {other}", _Binds.CHOICE


def _factors(term: Term) -> Iterator[tuple[Term, bool, int]]:
    """(factor, whether it divides, its power) of all that is multiplied up in `term`."""
    operands = term.operands
    if term.operation == "multiply":
        for each in operands:
            yield from _factors(each)
    elif term.operation == "divide" and _logit(term) is None and _averaged(term) is None:
        yield from _factors(operands[0])
        yield operands[1], True, 1
    elif term.operation == "power" and operands[1].operation == "number" and operands[1].detail in range(1, 10):
        yield operands[0], False, int(operands[1].detail)
    elif term.operation == "power":
        raise _UnreadableError
    elif term.operation == "number" and _constant(term.detail) is None and _constant(1 / (term.detail or 1)):
        # X·0.7071… is X/√2.
        yield Term("number", (), 1 / term.detail, term.factors, term.kind), True, 1
    elif not is_number(term, 1):
        yield term, False, 1


def _logit(term: Term) -> Term | None:
    """X of 1/(1 + exp(−X)), which is σ(X)."""
    if term.operation == "divide" and is_number(term.operands[0], 1) and term.operands[1].operation == "add":
        one, other = sorted(term.operands[1].operands, key=lambda each: each.operation != "number")
        if is_number(one, 1) and other.operation == "exp" and other.operands[0].operation == "negative":
            return other.operands[0].operands[0]
    return None


def _averaged(term: Term) -> Term | None:
    """X of ΣX over how many there are of them, which is mean(X)."""
    if term.operation != "divide" or term.operands[0].operation != "sum":
        return None
    total, count = term.operands
    while count.operation == "convert":
        count = count.operands[0]
    counted = count.operation == "extent" and sorted(count.detail) == sorted(total.detail)
    return total.operands[0] if counted else None


def _side_by_side(term: Term) -> Iterator[Term]:
    """What lies in the places 0, 1, … of an axis of so many: X where the place is 0, else what follows."""
    place = 0
    while term.operation == "where" and term.operands[0].operation == "equal":
        which, number = term.operands[0].operands
        if which.operation != "index" or not which.detail.isdigit() or not is_number(number, place):
            break
        yield term.operands[1]
        term, place = term.operands[2], place + 1
    yield term


def _part(term: Term) -> str:
    """X₁ and X₂ of an operand in two halves, which places have no other names."""
    whole, place = term.operands
    if whole.operation != "operand" or place.operation != "number":
        raise _UnreadableError
    return f"{_letter(whole.detail)}{str(place.detail + 1).translate(_SUBSCRIPTS)}"


def _constant(value: Number) -> str | None:
    return next((name for known, name in _CONSTANTS.items() if math.isclose(value, known, rel_tol=1e-15)), None)


def _letter(name: str) -> str:
    return _LETTERS.get(name, name)
