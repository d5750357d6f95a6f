"""Which scores count, as a term: what an operator declares of its operands that are no floats (`Sees`), traced."""

from __future__ import annotations

from typing import Any

from graphir.formula.module import TracingModule
from graphir.formula.terms import Term, Terms, UntraceableError
from graphir.formula.trace import NoFormula
from graphir.formula.traced import Traced
from graphir.ir.graph import Node
from graphir.ir.traits import Sees


def seen_term(node: Node) -> Term | NoFormula:
    """Which scores a node lets count, over its factors b, q and k; or why no term says it."""
    trait = node.operator.trait(Sees)
    if trait is None:
        return NoFormula(f"{node.operator.symbol} does not say what is seen")
    terms, given = Terms(), {}
    for operand, value in zip(node.inference.rule.inputs, node.inputs, strict=True):
        if not value.type.is_float:
            kind = "bool" if value.dtype == "bool" else "int"
            leaf = terms.leaf("operand", operand.name, operand.factors, kind)
            given[operand.name] = Traced(terms, leaf, [axis.factors for axis in operand.axes])
    try:
        made: Any = trait.rule(TracingModule(terms), given, node.attributes)
    except UntraceableError as error:
        return NoFormula(str(error))
    except Exception as error:  # whatever a rule does to what is no array of numbers
        return NoFormula(f"it fails on symbols: {type(error).__name__}: {error}")
    if type(made) is not Traced or made.term.kind != "bool":
        return NoFormula("what it makes does not follow from its operands, or is no boolean")
    if not made.term.factors <= {"b", "q", "k"}:
        return NoFormula("what it makes is not of b, q and k")
    return made.term
