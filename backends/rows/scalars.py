"""Numbers that are known at run time only, and are the same for all rows: what follows of a step and a learning rate.

They are computed once a run, in double precision, and handed to a kernel as its own floats: on the host in Python, on a
GPU by one thread of a block.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphir.backends.effects import Effects, judges
from graphir.formula.terms import Term, walk


def _divide(x: float, y: float) -> float:
    return x / y if y else float(np.float64(x) / np.float64(y))


def _guarded(function: Callable[..., float], like: Any) -> Callable[..., float]:
    """As NumPy has it where Python's function has no number."""

    def call(*given: float) -> float:
        try:
            return function(*given)
        except (ValueError, OverflowError, ZeroDivisionError):
            return float(like(*map(np.float64, given)))

    return call


_PYTHON: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _divide,
    "negative": operator.neg,
    "absolute": abs,
    "power": _guarded(operator.pow, np.power),
    "remainder": _guarded(operator.mod, np.remainder),
    "maximum": lambda x, y: y if x < y or y != y else x,
    "minimum": lambda x, y: y if x > y or y != y else x,
    "exp": _guarded(math.exp, np.exp),
    "log": _guarded(math.log, np.log),
    "sqrt": _guarded(math.sqrt, np.sqrt),
    "tanh": math.tanh,
    "sin": _guarded(math.sin, np.sin),
    "cos": _guarded(math.cos, np.cos),
    "erf": math.erf,
    "where": lambda condition, x, y: x if condition else y,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "logical_and": lambda x, y: x and y,
    "logical_or": lambda x, y: x or y,
    "logical_not": operator.not_,
    "isfinite": math.isfinite,
}
_CONVERT: Mapping[str, Callable[[Any], Any]] = {"float": float, "wide": float, "int": int, "bool": bool}


@dataclass(frozen=True)
class Scalars:
    """What is computed of scalar operands, as terms without factors."""

    roots: tuple[Term, ...]

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Every term, operands first."""
        return tuple(walk(self.roots))

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The operands that are read, by name."""
        return tuple(term.detail for term in self.terms if term.operation == "operand")

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The numbers that are known, in the order of their terms."""
        return tuple(float(term.detail) for term in self.terms if term.operation == "number")

    def of(self, given: Sequence[Any]) -> list[float]:
        """The numbers, from those of the operands."""
        named = dict(zip(self.operands, given, strict=True))
        known: dict[Term, Any] = {}
        for term in self.terms:
            if term.operation == "operand":
                known[term] = named[term.detail]
            elif term.operation == "number":
                known[term] = term.detail
            elif term.operation == "convert":
                known[term] = _CONVERT[term.detail](known[term.operands[0]])
            else:
                made = _PYTHON[term.operation](*(known[each] for each in term.operands))
                known[term] = _in_64_bits(made) if term.kind == "int" else made
        return [known[root] for root in self.roots]


def _in_64_bits(integer: int) -> int:
    """An integer as NumPy has it, which begins anew at the other end."""
    return (integer + (1 << 63)) % (1 << 64) - (1 << 63)


def can_be_scalars(term: Term) -> bool:
    """Whether a term is to be computed once a run: it has an operand, no factors anywhere, and is all arithmetic."""
    inside = list(walk([term]))
    return any(each.operation == "operand" for each in inside) and all(
        not each.factors and (each.operation in ("operand", "number", "convert") or each.operation in _PYTHON)
        for each in inside
    )


def write_scalars(scalars: Scalars, *given: Any) -> None:
    """Writes the numbers into the last argument, for operands before it."""
    *operands, numbers = given
    numbers[...] = np.reshape(scalars.of([each.item() for each in operands]), numbers.shape)


@judges(write_scalars)
def _effects(scalars: Scalars, *given: Any) -> Effects:
    return Effects(given[:-1], given[-1:])
