"""Tilings drawn at random: for each task its own, from single elements to everything whole, empty shares among them.

Whatever the cut, the numbers have to be right; so small sizes meet every boundary that large ones have.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from graphir.backends.compiled.task import Task
from graphir.backends.compiled.tiles import Cut, Tiling


@dataclass(frozen=True)
class DrawnTiling(Tiling):
    """Cuts that follow from `seed` and a task's name alone."""

    seed: int = 0

    def cut(self, task: Task, threads: int) -> Cut:
        random = Random(f"{self.seed} {task.node.name} {len(task.nodes)}")
        widths = {}
        for loop in task.space.loops:
            size = task.sizes[loop]
            widths[loop] = random.choice((1, size, size, max(1, size // 2), random.randint(1, max(size, 1))))
        if not widths or threads == 1 or random.random() < 0.2:
            return Cut(widths)
        shared = random.choice(task.space.loops)
        size = task.sizes[shared]
        inner = sorted(random.randint(0, size) for _ in range(random.randint(1, threads) - 1))
        return Cut(widths, shared, (0, *inner, size))


def drawn(seed: int) -> DrawnTiling:
    """The tiling of that seed."""
    return DrawnTiling(bytes=1 << 22, small=0, causal=(1, 1 << 20), seed=seed)
