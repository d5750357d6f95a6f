"""The rule by which programs leave out what nobody sees, proved for all positions at once.

A rule (`graphir.backends.inequalities`) tells of some queries and some keys, from the least and the greatest number of
each operand, whether one of them may see another. What they see is said by the operator itself, of one query and one
key: its formula, as inequalities between sums of integers. The rule is right if there are no numbers within bounds of
which it says no, and the formula yes:

    formula(x)    and    least ≤ x ≤ greatest, of each operand    and    not rule(least, greatest)

That is some systems of inequalities, none of which may have a solution among the integers. Variables are eliminated one
after the other (Fourier and Motzkin), constants rounded to what integers can reach: where that ends in 1 ≤ 0 there is
none, whatever the positions, their order, windows and sizes. Where it does not, the solution is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from graphir.backends.inequalities import AtMost, Bound, Condition, Every, Rule
from graphir.errors import ProofError
from graphir.formula.sees import seen_term
from graphir.formula.terms import Term
from graphir.formula.trace import NoFormula
from graphir.ir.graph import Node

#: An operand's number, or the least or the greatest of a range of them; no name stands for 1.
_Variable: TypeAlias = "str | Bound"
_ONE: Final = ""
#: Σ factor · variable, which is at most 0.
_Line: TypeAlias = "dict[_Variable, int]"
#: Systems, of which one holds.
_Cases: TypeAlias = "list[list[_Line]]"


def prove_rules(rules: Mapping[Node, Rule]) -> None:
    """ProofError where a rule says that nothing is seen, or all, and the node says otherwise."""
    for node, rule in rules.items():
        found = _refuted(_Asked(node), rule)
        if found is not None:
            where = f" ({node.meta.at})" if node.meta.at else ""
            raise ProofError(f"{node.name} = {node.operator.symbol}{where}: {found}")


class _Asked:
    """A node that says what is seen; equal to those that say the same."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._key = node.operator, node.inference.rule, node.attributes, tuple(value.dtype for value in node.inputs)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._key == other._key


@lru_cache(maxsize=256)
def _refuted(asked: _Asked, rule: Rule) -> str | None:
    """What is wrong with a rule, by an example; None if nothing is."""
    node, within = asked.node, list[_Line]()
    seen = seen_term(node)
    if isinstance(seen, NoFormula):
        return f"the rule by which it leaves out keys is held against nothing: {seen}"
    for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
        name, least, greatest = operand.name, Bound(operand.name, False), Bound(operand.name, True)
        if not value.type.is_float:
            within += [{least: 1, name: -1}, {name: 1, greatest: -1}]
            within += [{least: -1}, {greatest: 1, _ONE: -1}] if value.dtype == "bool" else []
    try:
        for says, is_seen, condition in (("none", True, rule.may_see), ("all", False, rule.may_miss)):
            for what in _said(seen, is_seen):
                for otherwise in _denied(condition):
                    found = _solution([*within, *what, *otherwise])
                    if found is not None:
                        which = "sees" if is_seen else "does not see"
                        return (
                            f"by the rule that it is run by, a range of queries sees {says} of a range of keys, and a "
                            f"query {which} a key all the same, where {_told(found)}"
                        )
    except _UnfitError as error:
        return f"the rule by which it leaves out keys is not proved: {error}"
    return None


def _told(found: Mapping[_Variable, int]) -> str:
    names = sorted({each for each in found if isinstance(each, str)})
    return ", ".join(f"{n} is {found[n]} of {found[Bound(n, False)]} to {found[Bound(n, True)]}" for n in names)


class _UnfitError(Exception):
    """It cannot be said in inequalities of integers."""


# -- what is said, and what is denied -----------------------------------------------------------------------


def _said(term: Term, value: bool) -> _Cases:
    """The cases in which a condition is true, or false."""
    operation, given = term.operation, term.operands
    match operation:
        case "logical_not":
            return _said(given[0], not value)
        case "logical_and" | "logical_or":
            parts = [_said(each, value) for each in given]
            return _both(parts) if (operation == "logical_and") == value else [case for part in parts for case in part]
        case "operand":
            return [[{term.detail: -1, _ONE: 1}]] if value else [[{term.detail: 1}]]
        case "number":
            return [[]] if bool(term.detail) == value else []
        case "less" | "less_equal" | "equal" | "not_equal":
            left, right = (_number(each) for each in given)
            at_most, at_least = _plus(left, right, -1), _plus(right, left, -1)
            less, more = _plus(at_most, {_ONE: 1}, 1), _plus(at_least, {_ONE: 1}, 1)
            found: dict[str, tuple[_Cases, _Cases]] = {
                "less": ([[less]], [[at_least]]),
                "less_equal": ([[at_most]], [[more]]),
                "equal": ([[at_most, at_least]], [[less], [more]]),
                "not_equal": ([[less], [more]], [[at_most, at_least]]),
            }
            return found[operation][0 if value else 1]
    raise _UnfitError(f"what is seen depends on {operation}")


def _number(term: Term) -> _Line:
    """A term as a sum of operands."""
    given = term.operands
    match term.operation:
        case "operand":
            return {term.detail: 1}
        case "number" if term.detail == int(term.detail):
            return {_ONE: int(term.detail)}
        case "add" | "subtract":
            return _plus(_number(given[0]), _number(given[1]), 1 if term.operation == "add" else -1)
        case "negative":
            return _plus({}, _number(given[0]), -1)
        case "convert" | "round" if term.kind == "int":
            return _number(given[0])
        case "multiply" if "number" in (given[0].operation, given[1].operation):
            one, other = sorted(given, key=lambda each: each.operation != "number")
            return _plus({}, _number(other), int(one.detail))
    raise _UnfitError(f"what is seen depends on {term.operation} of numbers")


def _denied(condition: Condition) -> _Cases:
    """The cases in which a rule's condition does not hold."""
    if isinstance(condition, AtMost):
        return [[_plus({_ONE: 1 - condition.constant}, {bound: -factor for bound, factor in condition.terms}, 1)]]
    parts = [_denied(part) for part in condition.parts]
    return [case for part in parts for case in part] if isinstance(condition, Every) else _both(parts)


def _both(parts: Iterable[_Cases]) -> _Cases:
    """The cases in which one case of each part holds."""
    found: _Cases = [[]]
    for part in parts:
        found = [[*case, *more] for case in found for more in part]
    return found


def _plus(one: Mapping[_Variable, int], other: Mapping[_Variable, int], factor: int) -> _Line:
    total = {name: one.get(name, 0) + factor * other.get(name, 0) for name in {**one, **other}}
    return {name: count for name, count in total.items() if count}


# -- whether there is a solution ----------------------------------------------------------------------------


def _solution(lines: Iterable[_Line]) -> dict[_Variable, int] | None:
    """Integers of which no sum is above 0; None if there are none. _UnfitError if neither is to be found."""
    system = [_tightened(line) for line in lines]
    found: dict[_Variable, int] = {name: 0 for line in system for name in line if name != _ONE}
    steps: list[tuple[_Variable, list[_Line]]] = []
    while True:
        variables = {name: None for line in system for name in line if name != _ONE}
        if not variables:
            break
        name = min(variables, key=lambda each: _pairs(system, each))
        touching = [line for line in system if name in line]
        steps.append((name, touching))
        system = [line for line in system if name not in line]
        system += [_tightened(line) for line in _without(name, touching)]
    if any(line.get(_ONE, 0) > 0 for line in system):
        return None
    for name, touching in reversed(steps):
        found[name] = _between(name, touching, found)
    return found


def _pairs(system: Iterable[_Line], name: _Variable) -> int:
    factors = [line.get(name, 0) for line in system]
    return sum(factor > 0 for factor in factors) * sum(factor < 0 for factor in factors)


def _without(name: _Variable, lines: Iterable[_Line]) -> Iterator[_Line]:
    """What follows from each two lines of which one bounds a variable from above, and one from below."""
    above, below = ([line for line in lines if line[name] * sign > 0] for sign in (1, -1))
    for one in above:
        for other in below:
            yield _plus({each: count * -other[name] for each, count in one.items()}, other, one[name])


def _tightened(line: _Line) -> _Line:
    """The same of integers: of 2 x − 1 ≤ 0, x ≤ 0."""
    divisor = math.gcd(*(count for name, count in line.items() if name != _ONE)) or 1
    made = {name: count // divisor for name, count in line.items() if name != _ONE}
    constant = -(-line.get(_ONE, 0) // divisor)
    return {**made, _ONE: constant} if constant else made


def _between(name: _Variable, lines: Iterable[_Line], found: Mapping[_Variable, int]) -> int:
    """An integer for a variable, when others have theirs: the one nearest to 0."""
    low, high = -math.inf, math.inf
    for line in lines:
        rest = sum(count * found.get(each, 1) for each, count in line.items() if each != name)
        if line[name] > 0:
            high = min(high, -rest // line[name])
        else:
            low = max(low, -(-rest // -line[name]))
    if low > high:
        raise _UnfitError("numbers between integers would solve its inequalities")
    return int(min(max(0, low), high))
