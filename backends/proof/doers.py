"""Who does something in a program, and how much has been proved of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from graphir.backends.proof.calls import Deeds
from graphir.backends.trace import Step
from graphir.errors import ProofError


@dataclass(frozen=True, eq=False)
class Doer:
    """Who does something: a step of a thread, or an exchange; `line` is the user's."""

    where: str
    what: str
    line: str | None = None

    def __str__(self) -> str:
        return f"{self.what} ({self.where}{f', {self.line}' if self.line else ''})"

    def fail(self, text: str) -> NoReturn:
        """ProofError."""
        raise ProofError(f"{self}: {text}")


class Done:
    """A step, who does it, and what its calls touch. `owner` is equal for a thread's of one operator in one task."""

    __slots__ = ("deeds", "doer", "owner", "step", "thread")

    def __init__(self, step: Step, doer: Doer, deeds: Deeds, thread: int) -> None:
        self.step, self.doer, self.deeds, self.thread = step, doer, deeds, thread
        self.owner: object = (thread, step.within, *(node.operator for node in step.nodes[:1]))


@dataclass
class Counts:
    """How much has been proved. `unplaced` are nodes of which nothing says which part a tile makes."""

    steps: int = 0
    calls: int = 0
    reads: int = 0
    ranges: int = 0
    meetings: int = 0
    exchanges: int = 0
    unplaced: dict[str, None] = field(default_factory=dict)
