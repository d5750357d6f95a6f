"""The memory plan: what a rank needs, and which values make the fullest moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphir.backends.compiled.storage import Arena
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


def plan_memory(tasks: Sequence[Task], arena: Arena, arguments: int, results: int, shared: int) -> MemoryPlan:
    """The plan for tasks that have their tiles and an arena."""
    scratch = 0
    for thread in range(max((len(task.tiles) for task in tasks), default=0)):
        scratch += max((_tile_bytes(task, thread) for task in tasks), default=0)
    fullest = arena.fullest()
    alive = [(block.value.name, block.size) for block in arena.alive(fullest)]
    at = tasks[fullest].node.name if tasks else ""
    return MemoryPlan(arguments, results, arena.size, scratch, shared, at, tuple(alive))


def _tile_bytes(task: Task, thread: int) -> int:
    """What the values that no other task sees take on a thread's first tile."""
    tile = next(iter(task.tiles[thread]), None)
    if tile is None:
        return 0
    inner = [value for value in task.materialised if value not in task.outer]
    return sum(task.bytes(value, tile) for value in inner)


def _spelled(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
