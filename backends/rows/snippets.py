"""What an operator computes of one row: the *snippet* from which fused kernels are generated.

    @snippet(layer_norm)
    def _layer_norm(row, X, gamma, beta, *, epsilon): …
        return {"H": …, "mean": …, "rstd": …}

A snippet is given expressions (`expressions`) for the operands, by the names of the operator's signature (None for
one that is absent), and its attributes; it returns one expression for each output that it can make. An output that
lacks dims of the rows, as dγ [D] does, is the sum over them of what is returned. A snippet that cannot do better than
the rule of the operator for these attributes returns None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from graphir.backends.rows.expressions import Expression
from graphir.ir.operator import Operator

Made: TypeAlias = Mapping[str, Expression]
Snippet: TypeAlias = Callable[..., "Made | None"]

_SNIPPETS: dict[str, Snippet] = {}


def snippet(*operators: Operator) -> Callable[[Snippet], Snippet]:
    """Declares the decorated function as the snippet of `operators`."""

    def declare(function: Snippet) -> Snippet:
        _SNIPPETS.update({each.key: function for each in operators})
        return function

    return declare


def find_snippet(operator: Operator) -> Snippet | None:
    """The snippet of `operator`, if it has one."""
    return _SNIPPETS.get(operator.key)
