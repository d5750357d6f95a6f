"""From what a mask says of one query and one key to what ranges of both may see: interval arithmetic on its formula.

A comparison of integers that are added up is one sum that is at most 0, and may hold where it does of the least that
the sum can be: of each number the least where it adds to the sum, and the greatest where it takes away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphir.backends.inequalities import AtMost, Bound, Condition, Every, Rule, Some
from graphir.formula.sees import seen_term
from graphir.formula.terms import COMPARISONS, Term, walk
from graphir.formula.trace import NoFormula
from graphir.ir.graph import Node
from graphir.ir.traits import Sees

#: Σ factor · operand, and a constant under no name.
_Sum = Mapping[str, int]
_CONSTANT = ""
#: Of 32 bits.
_LARGEST = (1 << 31) - 1


class _UnfitError(Exception):
    """It is no comparison of sums of integers."""


def rule_of(node: Node) -> Rule | None:
    """By which it is told what ranges of queries see of ranges of keys, of a node that declares what is seen; None
    where it declares nothing, or what is no comparison of sums of integers."""
    seen = seen_term(node) if node.operator.trait(Sees) is not None else None
    try:
        if seen is None or isinstance(seen, NoFormula):
            return None
        return Rule(_may_be(seen, True), _may_be(seen, False), tuple(sorted(_limits(seen).items())))
    except _UnfitError:
        return None


def _may_be(term: Term, value: bool) -> Condition:
    """When a condition may be true of numbers in ranges, or, without `value`, false."""
    operation, given = term.operation, term.operands
    if operation == "number":
        return Every(()) if bool(term.detail) is value else Some(())
    if operation == "operand":
        return _at_most({term.detail: -1, _CONSTANT: 1} if value else {term.detail: 1})
    if operation == "logical_not":
        return _may_be(given[0], not value)
    if operation in ("logical_and", "logical_or"):
        kind: type[Every | Some] = Every if (operation == "logical_and") is value else Some
        parts = (_may_be(each, value) for each in given)
        return kind(tuple(one for part in parts for one in (part.parts if isinstance(part, kind) else (part,))))
    if operation not in COMPARISONS:
        raise _UnfitError
    apart = _less(_sum_of(given[0]), _sum_of(given[1]))
    before, behind = _at_most(_after(apart)), _at_most(_after(_turned(apart)))
    if operation in ("equal", "not_equal"):
        if (operation == "equal") is value:
            return Every((_at_most(apart), _at_most(_turned(apart))))
        return Some((before, behind))
    if operation == "less":
        return before if value else _at_most(_turned(apart))
    return _at_most(apart) if value else behind


def _limits(seen: Term) -> dict[str, int]:
    """Of operands that are added up before they are compared, how large they may be."""
    found: dict[str, int] = {}
    compared = [side for term in walk([seen]) if term.operation in COMPARISONS for side in term.operands]
    for side in (each for each in compared if each.operation != "operand"):
        total = _sum_of(side)
        counts = {name: abs(count) for name, count in total.items() if name != _CONSTANT}
        for name in counts:
            most = (_LARGEST - abs(total.get(_CONSTANT, 0))) // max(sum(counts.values()), 1)
            found[name] = min(found.get(name, most), most)
    return found


def _sum_of(term: Term) -> dict[str, int]:
    """A term as a sum of operands."""
    operation, given = term.operation, term.operands
    if operation == "operand":
        return {term.detail: 1}
    if operation == "number" and not isinstance(term.detail, float):
        return {_CONSTANT: int(term.detail)}
    if operation in ("convert", "round") and term.kind == "int":
        return _sum_of(given[0])
    if operation == "negative":
        return _turned(_sum_of(given[0]))
    if operation == "add":
        return _less(_sum_of(given[0]), _turned(_sum_of(given[1])))
    if operation == "subtract":
        return _less(_sum_of(given[0]), _sum_of(given[1]))
    if operation == "multiply":
        one, other = map(_sum_of, given)
        for factor, of in ((one, other), (other, one)):
            if factor.keys() <= {_CONSTANT}:
                return {name: count * factor.get(_CONSTANT, 0) for name, count in of.items()}
    raise _UnfitError


def _less(one: _Sum, other: _Sum) -> dict[str, int]:
    return {name: one.get(name, 0) - other.get(name, 0) for name in {**one, **other}}


def _turned(given: _Sum) -> dict[str, int]:
    return {name: -count for name, count in given.items()}


def _after(given: _Sum) -> dict[str, int]:
    return {**given, _CONSTANT: given.get(_CONSTANT, 0) + 1}


def _at_most(given: _Sum) -> AtMost:
    """When a sum may be at most 0."""
    terms = [(Bound(name, count < 0), count) for name, count in given.items() if name != _CONSTANT and count]
    return AtMost(tuple(terms), given.get(_CONSTANT, 0))


# -- in numbers, and as text ------------------------------------------------------------------------------------


def holds(condition: Condition, bounds: Mapping[Bound, Any]) -> Any:
    """Where a condition holds of bounds, numbers or arrays that are widened to one shape."""
    if isinstance(condition, AtMost):
        return sum((count * bounds[bound] for bound, count in condition.terms), condition.constant) <= 0
    found: Any = isinstance(condition, Every)
    for part in condition.parts:
        each = holds(part, bounds)
        found = found & each if isinstance(condition, Every) else found | each
    return found


def spelled(condition: Condition, name: Callable[[Bound], str]) -> str:
    """A condition in C, with each bound as `name` has it."""
    if isinstance(condition, AtMost):
        left = [(bound, count) for bound, count in condition.terms if count > 0]
        right = [(bound, -count) for bound, count in condition.terms if count < 0]
        # What is taken away from numbers that are not negative does not grow out of their type.
        return f"{_side(left, min(condition.constant, 0), name)} <= {_side(right, -max(condition.constant, 0), name)}"
    parts = [f"({spelled(part, name)})" for part in condition.parts]
    return (" && ".join(parts) or "true") if isinstance(condition, Every) else (" || ".join(parts) or "false")


def _side(terms: Sequence[tuple[Bound, int]], constant: int, name: Callable[[Bound], str]) -> str:
    if not terms:
        return f"{constant}ll"
    parts = [name(bound) if count == 1 else f"{count}ll * {name(bound)}" for bound, count in terms]
    return " + ".join(parts) + (f" - {-constant}ll" if constant else "")
