"""Conditions on ranges of integers: what may be so, told from the least and the greatest of each of some numbers.

    Whether a query sees a key:            k ≤ q                     and  q − k < window
    Whether some of a tile may see some:   least k ≤ greatest q      and  least q − greatest k < window

Programs leave out by such conditions what nobody sees, whoever writes them (`graphir.backends.compiled.bounds`) and
whoever has them written into a kernel; the checker proves each for all numbers there are (`proof.rules`).
A boolean is a number, 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class Bound(NamedTuple):
    """The least of an operand's numbers in a range, or the greatest."""

    operand: str
    greatest: bool


@dataclass(frozen=True)
class AtMost:
    """Σ factor · bound + constant ≤ 0."""

    terms: tuple[tuple[Bound, int], ...]
    constant: int


@dataclass(frozen=True)
class Every:
    """All of these."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Some:
    """One of these at least."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = "AtMost | Every | Some"


@dataclass(frozen=True)
class Rule:
    """By which it is told what some queries see of some keys, from the least and the greatest of what both have.

    may_see    else none of them sees any
    may_miss   else all of them see all
    limits     of operands that sums are made of: so far from 0 they may be, that no sum grows out of 32 bits, where it
               would begin anew at the other end; of any that is further the rule says nothing
    """

    may_see: Condition
    may_miss: Condition
    limits: tuple[tuple[str, int], ...] = ()
