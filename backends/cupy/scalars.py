"""Numbers that are known at run time only, as CUDA: one thread of a block computes them, in double precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphir.backends.cupy.text import OPERATIONS
from graphir.backends.rows.scalars import Scalars
from graphir.formula.terms import Term

_TYPES = {"float": "double", "wide": "double", "int": "long long", "bool": "bool"}
_TEXT = {
    **OPERATIONS,
    "divide": "double({}) / double({})",
    "negative": "-{}",
    "where": "{} ? {} : {}",
    "equal": "{} == {}",
    "not_equal": "{} != {}",
    "less_equal": "{} <= {}",
    "logical_and": "{} && {}",
    "logical_or": "{} || {}",
    "logical_not": "!{}",
    "isfinite": "bool(isfinite({}))",
}


def scalar_lines(scalars: Scalars, given: Sequence[str], into: str, number: int) -> Iterator[str]:
    """The statements that write the numbers into the array `into`; `given` are its known numbers, then its operands."""
    known = dict(zip(scalars.operands, given[len(scalars.numbers) :], strict=True))
    numbers = iter(given[: len(scalars.numbers)])
    names: dict[Term, str] = {}
    for i, term in enumerate(scalars.terms):
        if term.operation == "operand":
            text = known[term.detail]
        elif term.operation == "number":
            text = next(numbers)
        elif term.operation == "convert":
            text = names[term.operands[0]]
        else:
            text = _TEXT[term.operation].format(*(names[each] for each in term.operands))
        names[term] = f"s{number}_{i}"
        yield f"const {_TYPES[term.kind]} s{number}_{i} = ({_TYPES[term.kind]})({text});"
    for i, root in enumerate(scalars.roots):
        yield f"{into}[{i}] = T({names[root]});"
