"""The memory plan: what a rank needs, and which values make the fullest moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from graphir.backends.compiled.arena import Arena
from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.task import Task

_SHOWN = 8


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank, before anything is allocated.

    arguments   inputs, parameters and state, which are the caller's arrays
    results     what the graph returns
    arena       all that passes between tasks
    scratch     what threads need within a task, as far as tiles tell
    shared    what one rank makes for others, which stays until the run ends
    at          the task at work when the arena is fullest, and the values that lie in it then, the largest first
    """

    arguments: int
    results: int
    arena: int
    scratch: int
    shared: int
    at: str
    alive: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """All together."""
        return self.arguments + self.results + self.arena + self.scratch + self.shared

    def __str__(self) -> str:
        parts = {"arguments": self.arguments, "results": self.results, "arena": self.arena, "scratch": self.scratch}
        if self.shared:
            parts["shared"] = self.shared
        lines = [f"planned peak {_spelled(self.bytes)}: " + ", ".join(f"{k} {_spelled(v)}" for k, v in parts.items())]
        if self.alive:
            lines.append(f"the arena is fullest at {self.at}, with")
            lines += [f"  {_spelled(size):>10}  {name}" for name, size in self.alive[:_SHOWN]]
            rest = self.alive[_SHOWN:]
            if rest:
                lines.append(f"  {_spelled(sum(size for _, size in rest)):>10}  {len(rest)} more")
        return "\n".join(lines)


def plan_memory(
    tasks: Sequence[Task], assignments: Sequence[Assignment], arena: Arena, arguments: int, results: int, shared: int
) -> MemoryPlan:
    """The plan for tasks that have their tiles and assignments, and an arena."""
    scratch = 0
    for thread in range(max((len(task.tiles) for task in tasks), default=0)):
        most = (_scratch(task, each, thread) for task, each in zip(tasks, assignments, strict=True))
        scratch += max(most, default=0)
    fullest = arena.fullest()
    alive = [(block.value.name, block.size) for block in arena.alive(fullest)]
    at = tasks[fullest].node.name if tasks else ""
    return MemoryPlan(arguments, results, arena.size, scratch, shared, at, tuple(alive))


def _scratch(task: Task, assignment: Assignment, thread: int) -> int:
    """The most that a thread needs at once on its first tile for values that have no memory elsewhere."""
    tile = next(iter(task.tiles[thread]), None)
    if tile is None:
        return 0
    position = {value: i for i, node in enumerate(task.nodes) for value in node.outputs}
    changes = [0] * (len(task.nodes) + 2)
    for first, end in assignment.ends().items():
        if first in task.in_registers or first in assignment.buffers or end < 0:
            continue
        size = task.bytes(first, tile)
        changes[position[first]] += size
        changes[end + 1] -= size
    return max(accumulate(changes))


def _spelled(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
