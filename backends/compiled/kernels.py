"""What fused kernels have to offer, whichever language they are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.compiled.task import Task
from graphir.backends.rows.runs import Run
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.value import Value


class Kernels(Protocol):
    """What writes a run of nodes as one call."""

    def runs(self, task: Task, assignment: Assignment, keywords: Mapping[Node, Mapping[str, Any]]) -> Mapping[int, Run]:
        """The runs of a task, by the position of their first node; `keywords` as of `write`."""

    def in_registers(self, task: Task) -> frozenset[Value]:
        """What these kernels hold in registers, a piece at a time, where they carry out all of a task.

        Such a task is not cut, and these values need no memory. Empty of every other task.
        """

    def write(
        self,
        call: Calls,
        run: Run,
        arrays: Mapping[Value, Array],
        sizes: Sequence[int],
        place: Callable[[Node], Place],
        keywords: Mapping[Node, Mapping[str, Any]],
    ) -> bool:
        """Records the call that computes a run on a tile; False where the tile's arrays lie in no way for it.

        arrays     the tile's part of each operand and result of the run
        sizes      how much of each of the run's axes it covers
        place      where a node's part lies in the global tensors
        keywords   the nodes' attributes, with dims in numbers
        """
