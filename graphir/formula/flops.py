"""Floating-point operations of a node: as its operator declares them, or as its formula has them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from graphir.formula.terms import ARITHMETIC, FUNCTIONS, REDUCTIONS
from graphir.formula.trace import Formula, formula_of
from graphir.ir.dims import Dim
from graphir.ir.graph import Node
from graphir.ir.signature import Signature

#: Each is one operation on an element. Comparisons, choices and conversions are none.
_COUNTED = ARITHMETIC | FUNCTIONS
#: What stands for a dim among the attributes: how many operations there are does not depend on it.
_SOME_SIZE = 2

#: So many operations at each point of these factors.
Operations = Mapping[frozenset[str], Fraction]


def find_operations(node: Node) -> Operations:
    """How many operations on floats `node` has, at each point of which factors of its rule.

    Of one whose operator says `flops`, so many at every point of its iteration space; of any other, what its formula
    has, and nothing where its kernel has no formula, nor where it moves blocks between ranks.
    """
    operator, rule = node.operator, node.inference.rule
    if operator.relayout is not None:
        return {}
    if operator.flops is None:
        attributes = {name: _numbers(value) for name, value in node.attributes.items()}
        formula = formula_of(node, attributes)
        return count_operations(formula) if isinstance(formula, Formula) else {}
    share = Fraction(1)
    if "only" in node.attributes:
        full = operator.signatures({**node.attributes, "only": None})[0]
        share = Fraction(len(node.outputs), len(full.outputs))
    return {visited_factors(rule): operator.flops * share} if operator.flops else {}


def visited_factors(rule: Signature) -> frozenset[str]:
    """The factors of a rule's iteration space.

    Rows that indices scatter into are not visited one by one: an embedding's gradient adds B S rows, not V.
    """
    return frozenset(rule.factors) - (rule.output_only_factors & {operand.indexes for operand in rule.inputs})


def count_operations(formula: Formula) -> Operations:
    """How many operations on floats a formula has, at each point of which factors.

    A sum or a maximum is one for each element that goes into it. A term that several others need counts once. Numbers
    of a run, which are over no factor, are not counted: they are computed once, whatever the sizes.
    """
    counts: dict[frozenset[str], Fraction] = {}
    for term in formula.all_terms:
        if term.kind != "float":
            continue
        if term.operation in REDUCTIONS:
            factors = term.operands[0].factors
        elif term.operation in _COUNTED and term.factors:
            factors = term.factors
        else:
            continue
        counts[factors] = counts.get(factors, Fraction(0)) + 1
    return counts


def _numbers(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_numbers, value))
    return _SOME_SIZE if isinstance(value, Dim) else value
