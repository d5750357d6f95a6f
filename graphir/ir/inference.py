"""What a type check finds of a node, and where a rank's blocks of it lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graphir.errors import OperatorError
from graphir.ir.dims import Dim
from graphir.ir.signature import Operand, Signature
from graphir.ir.types import TensorType


class Inference(NamedTuple):
    """What a type check finds: the rule that fits, each factor's dim, the types of the outputs."""

    rule: Signature
    factors: Mapping[str, Dim]
    types: tuple[TensorType, ...]


def require_operand(rule: Signature, name: str) -> Operand:
    """The operand or result of that name; OperatorError if a kernel asks where another lies."""
    operands = (*rule.inputs, *rule.outputs)
    found = next((each for each in operands if each.name == name), None)
    if found is None:
        known = ", ".join(each.name for each in operands)
        raise OperatorError(f"at.region({name!r}): its signature {rule} has no such operand; it has {known}")
    return found


def require_factor(rule: Signature, known: frozenset[str] | None, factor: str) -> None:
    """OperatorError if a kernel asks where its blocks begin along what is a factor of none of its variants, `known`."""
    if known is None or factor in rule.factors or factor.partition(".")[0] in known:
        return
    names = ", ".join(sorted(known)) or "none"
    raise OperatorError(f"at.start({factor!r}): its signature {rule} has no such factor; its operator has {names}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kernel's blocks lie: per factor, the first global index here and the global size.

    `known` are the factors of all variants of its operator; None where a kernel may ask for any.
    """

    rule: Signature
    starts: Mapping[str, int]
    sizes: Mapping[str, int]
    known: frozenset[str] | None = None

    def start(self, factor: str) -> int:
        """The first global index of this rank's block along `factor`; 0 along one that only other variants have."""
        if factor not in self.starts:
            require_factor(self.rule, self.known, factor)
        return self.starts.get(factor, 0)

    def region(self, operand: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """An operand's first global indices and its global shape."""
        factors = require_operand(self.rule, operand).factors
        return tuple(map(self.start, factors)), tuple(self.sizes[factor] for factor in factors)
