"""The dictionary's operators that have a formula, and those that have none."""

from __future__ import annotations

from typing import Any

import graphir as gi
from graphir.formula.trace import Formula, NoFormula
from graphir.formula.trace import formula_of as formula_of_node
from graphir.testing import Case
from tests.support.dictionary import dictionary

#: What no formula says: products of matrices, rows looked up in a table, a choice, text, rows
#: written into state.
PRIMITIVE = frozenset({"matmul", "dMatmul", "lookup", "dLookup", "ARG", "TOPk", "Tokenizer", "CACHE"})
DRAWN = [each for each in dictionary() if each.examples and not each.view]
FORMULATED = [each for each in DRAWN if each.key not in PRIMITIVE]
#: Those that fused CUDA kernels compute: all but numbers of elements, and positions and angles in double precision.
FUSED = [each for each in FORMULATED if each.key not in ("size", "positions", "angles")]


def attributes_of(case: Case) -> dict[str, Any]:
    """A case's attributes as its kernel is given them, dims in numbers."""
    given = case.node.attributes.items()
    return {name: _number(value, case) for name, value in given if name not in ("only", "split")}


def _number(value: Any, case: Case) -> Any:
    if isinstance(value, tuple):
        return tuple(_number(each, case) for each in value)
    return value.size(case.sizes) if isinstance(value, gi.Dim) else value


def formula_of(case: Case) -> Formula | NoFormula:
    """The formula of a case's operator, or why it has none."""
    return formula_of_node(case.node, attributes_of(case))
