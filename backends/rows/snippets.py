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

Nodes that agree in all that a snippet is given share a kernel. An attribute that may differ between them is declared:
`@snippet(dropout, at_run_time="key")`. It is not given to the snippet, which so cannot make it part of a kernel, but
may be asked for by name where numbers are prepared for a run (`Row.prepare`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphir.backends.rows.expressions import Expression
from graphir.errors import OperatorError
from graphir.ir.declaration import KEYWORDS
from graphir.ir.operator import Operator

Made: TypeAlias = Mapping[str, Expression]
Answer: TypeAlias = Callable[..., "Made | None"]


@dataclass(frozen=True)
class Snippet:
    """An operator's snippet: what it answers, the factors that have to be columns, attributes that it is not given."""

    answer: Answer
    columns: frozenset[str]
    at_run_time: frozenset[str]

    def given(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Of a node's keywords, its attributes with dims in numbers, those that the snippet is given."""
        return {name: value for name, value in keywords.items() if name not in KEYWORDS | self.at_run_time}


#: By the operator itself: a notebook may declare another one of the same key.
_SNIPPETS: dict[Operator, Snippet] = {}


def snippet(*operators: Operator, columns: str = "", at_run_time: str = "") -> Callable[[Answer], Answer]:
    """Declares the decorated function as the snippet of `operators`.

    columns       factors, with spaces between, that have to be the columns
    at_run_time   attributes, with spaces between, that the kernel is handed and the snippet is not given

    Errors: OperatorError if an operator has no such attribute.
    """
    for each in operators:
        for name in sorted(set(at_run_time.split()) - each.attributes.keys()):
            raise OperatorError(f"a snippet of {each.key} is not to be given {name}, which is no attribute of it")

    def declare(answer: Answer) -> Answer:
        found = Snippet(answer, frozenset(columns.split()), frozenset(at_run_time.split()))
        _SNIPPETS.update(dict.fromkeys(operators, found))
        return answer

    return declare


def find_snippet(operator: Operator) -> Snippet | None:
    """The snippet of `operator`, if it has one."""
    return _SNIPPETS.get(operator)
