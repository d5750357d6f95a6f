"""What fused kernels have to offer, whichever language they are written in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.emission import Calls
from graphir.backends.compiled.task import Task
from graphir.backends.rows.plan import RunTile
from graphir.backends.rows.runs import FusedRun, Keywords
from graphir.ir.value import Value


class Kernels(Protocol):
    """What writes a run of nodes as one call."""

    def runs(self, task: Task, assignment: Assignment, keywords: Keywords) -> Mapping[int, FusedRun]:
        """The runs of a task, by the position of their first node."""

    def in_registers(self, task: Task) -> frozenset[Value]:
        """What these kernels hold in registers, a piece at a time, where they carry out all of a task.

        Such a task is not cut, and these values need no memory. Empty of every other task.
        """

    def write(self, call: Calls, run: FusedRun, tile: RunTile) -> bool:
        """Records the call that computes a run on a tile; False where the tile's arrays lie in no way for it."""
