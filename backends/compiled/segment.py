"""A segment: a program's calls between two exchanges."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.backends.compiled.writer import Call
from graphir.backends.trace import Meeting, Step
from graphir.ir.graph import Node


@dataclass
class Segment:
    """A list of calls for each thread, whose node each call is, and the steps that they are."""

    calls: list[list[Call]]
    nodes: list[list[Node | None]]
    steps: list[list[Step | Meeting]]

    @classmethod
    def empty(cls, threads: int) -> Segment:
        """A segment without calls yet."""
        return cls([[] for _ in range(threads)], [[] for _ in range(threads)], [[] for _ in range(threads)])
