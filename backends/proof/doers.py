"""Who does something in a program, and how much has been proved of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

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
