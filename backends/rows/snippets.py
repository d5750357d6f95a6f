"""What an operator computes of one row: the *snippet* from which fused kernels are generated.

    @snippet(layer_norm)
    def _layer_norm(row, X, gamma, beta, *, epsilon): …
        return {"H": …, "mean": …, "rstd": …}

A snippet is given expressions (`expressions`) for the operands, by the names of the operator's signature (None for
one that is absent), and its attributes; it returns one expression for each output that it can make. An output that
lacks dims of the rows, as dγ [D] does, is the sum over them of what is returned. A snippet that cannot do better than
the rule of the operator for these attributes returns None. What takes sums of its row, or asks for the column that an
element lies in, names the factor that has to be the columns: `@snippet(row_max, columns="v")`; what the operator's
signature marks as whole, `v!`, has to be in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphir.backends.rows.expressions import Expression
from graphir.ir.operator import Operator

Made: TypeAlias = Mapping[str, Expression]
Answer: TypeAlias = Callable[..., "Made | None"]


@dataclass(frozen=True)
class Snippet:
    """What an operator's snippet answers, and the factors that have to be the columns."""

    answer: Answer
    columns: frozenset[str]


_SNIPPETS: dict[str, Snippet] = {}


def snippet(*operators: Operator, columns: str = "") -> Callable[[Answer], Answer]:
    """Declares the decorated function as the snippet of `operators`; `columns` are factors, with spaces between."""

    def declare(answer: Answer) -> Answer:
        _SNIPPETS.update({each.key: Snippet(answer, frozenset(columns.split())) for each in operators})
        return answer

    return declare


def find_snippet(operator: Operator) -> Snippet | None:
    """The snippet of `operator`, if it has one."""
    return _SNIPPETS.get(operator.key)
