"""How a node becomes calls: rules that write a node's work on one tile as calls into buffers that exist already.

A program is a list of calls `function(*arrays)`, made once and run at every step. What a rule of an operator does

    @rules.emits(layer_norm, inplace={"H": "X"})
    def _layer_norm(call, X, gamma, beta, H, mean, rstd, *, epsilon):
        call(np.subtract, X, …, H)

is to record those calls: operands and outputs are views of the engine's buffers, by the names of the operator's
signature (None for an operand that is absent, an output that is not wanted; a variadic operand is a tuple),
attributes are numbers. `rules` are one engine's, each of which has a registry of its own.
Their contents are not there yet when the rule runs: a rule looks at shapes, strides and dtypes, never at numbers.
A rule that cannot do better for what it is given returns False.

Few operators need a rule of their own: it overrides what follows from an operator's formula (`Rules.by_formula`), where
a machine has something better. What has neither runs its reference kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from graphir.formula.trace import Formula, formula_of
from graphir.ir.graph import Node
from graphir.ir.operator import Operator, Place

Array: TypeAlias = NDArray[Any]
Function: TypeAlias = Callable[..., Any]


class Calls(Protocol):
    """Where a rule writes the calls of one node on one tile, for one thread."""

    def __call__(self, function: Function, *arguments: Any) -> None:
        """Records `function(*arguments)`; ufuncs take their output as the last positional argument."""

    def scratch(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """An uninitialised C-contiguous buffer of this thread, the node's own until its calls on this tile end."""

    def prepared(self, shape: Sequence[int], dtype: DTypeLike, function: Function, *arguments: Any) -> Array:
        """A small buffer that `function(*arguments, buffer)` fills once a run: keys of a hash, a learning rate.

        It is filled before the node's first tile that asks for it; its tiles that ask for the same share it.
        """

    def constant(self, make: Callable[..., Array], *arguments: Any) -> Array:
        """`make(*arguments)`, read-only, made once for all that ask for the same: an arange, a triangle.

        `make` is a function of a module, and all that it makes follows from its arguments: the two are what is the
        same. Arguments are hashable.
        """

    def anew(self, record: Function, place: Place, attributes: Mapping[str, Any], *arguments: Any) -> None:
        """`record(call, place, attributes, *arguments)`, on every tile, each with a place and attributes of its own.

        For what depends on the numbers among these, where all else depends on how arrays lie; see `replay`.
        """


@dataclass(frozen=True)
class Rule:
    """What is recorded for an operator.

    emit      an operator's own: takes operands, outputs and attributes by name; of a formula, the first two as mappings
              by the names of the node's rule, where the tile's part lies, and the node's attributes
    inplace   the operands over which an output may be written, element by element
    formula   what the rule was made of; None of one that is an operator's own
    is_placed whether what it records, but for what `Calls.anew` does, depends on where the tile begins
    """

    emit: Callable[..., Any]
    inplace: Mapping[str, tuple[str, ...]]
    formula: Formula | None = None
    is_placed: bool = False


class Rules:
    """One engine's rules: those that operators have of their own, and, for all that have a formula, `general`."""

    def __init__(self, general: Callable[[Formula], Rule] | None = None) -> None:
        self.general = general
        #: By the operator itself: a notebook may declare another one of the same key.
        self._rules: dict[Operator, Rule] = {}

    def emits(
        self, *operators: Operator, inplace: Mapping[str, str] | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declares the decorated function as the rule of `operators`.

        `inplace` maps an output to operands (names, with spaces between) whose very memory it may be given.
        """

        def declare(emit: Callable[..., Any]) -> Callable[..., Any]:
            rule = Rule(emit, {output: tuple(names.split()) for output, names in (inplace or {}).items()})
            self._rules.update(dict.fromkeys(operators, rule))
            return emit

        return declare

    def find(self, operator: Operator) -> Rule | None:
        """The rule that `operator` has of its own, if any."""
        return self._rules.get(operator)

    def by_formula(self, node: Node, attributes: Mapping[str, Any]) -> Rule | None:
        """The rule that follows from a node's formula; None if it has none. `attributes` have dims in numbers."""
        if self.general is None:
            return None
        formula = formula_of(node, attributes)
        return self.general(formula) if isinstance(formula, Formula) else None


def flat(array: Array) -> Array | None:
    """`array` as one row of elements where that is a view, so that a ufunc has one loop; None where it is not."""
    return array.reshape(-1) if array.flags.c_contiguous else None


def rows(array: Array) -> Array | None:
    """`array` [*b, d] as a matrix [(*b), d] where that is a view; None where it is not."""
    matrix = array.reshape(-1, array.shape[-1]) if array.ndim != 2 else array
    return matrix if array.size == 0 or np.may_share_memory(matrix, array) else None
