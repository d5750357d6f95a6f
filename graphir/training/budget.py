"""Whether a training fits into memory, told before anything is allocated: a system that runs out kills without a word.

What is needed is read off plans (`executable.memory`), which allocate nothing:

    tensors      parameters and optimizer state, whole, in the hands of the loop
    step         what the ranks held here take beside, while they train: arenas, results, scratch, their own copies of
                 arguments where a block of the whole cannot be read in place
    validation   the same for the program that validates, which lives beside
    checkpoint   the file as it is put together in memory: the bytes of each tensor that changes, and all of them in a
                 row

What would fit is tried on the same plans. Where a model has many layers, which are alike, the plans of 2 and of 3 are
carried on to all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from graphir.backends import Executable
from graphir.errors import ConfigError, GraphirError
from graphir.ir.dims import Sizes
from graphir.ir.extent import bind_sizes, count_bytes
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.memory import spelled
from graphir.passes import LEVELS
from graphir.training.config import TrainConfig

#: Models of more layers are not planned whole for each suggestion; of many, planning takes its time.
_FEW, _MANY = 3, 12
_MOST_RANKS = 64


# -- what is needed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """Bytes that one process needs to train; see the module's docstring. `plan` is the table of the step's plan."""

    tensors: int
    step: int = 0
    validation: int = 0
    checkpoint: int = 0
    plan: str = ""

    @property
    def bytes(self) -> int:
        """All together."""
        return self.tensors + self.step + self.validation + self.checkpoint

    def __str__(self) -> str:
        names = ("tensors", "step", "validation", "checkpoint")
        parts = [f"{name} {spelled(getattr(self, name))}" for name in names if getattr(self, name)]
        return f"{spelled(self.bytes)}: {', '.join(parts)}"


def need_of(graph: Graph, sizes: Sizes, step: Executable, validation: Executable, alone: bool = False) -> Need:
    """What a process needs that trains `graph` by `step`, and looks by `validation` at how it does.

    `alone`: if it held a single rank.
    """
    tensors = tensor_bytes(graph, sizes)
    changing = tensor_bytes(graph, sizes, [value for value in graph.parameters if value in graph.updates])
    work = step.working_bytes(alone), validation.working_bytes(alone)
    return Need(tensors, *work, 2 * changing, str(step.memory))


def tensor_bytes(graph: Graph, sizes: Sizes, parameters: Collection[Value] | None = None) -> int:
    """Of all parameters, or of these, and of state, whole."""
    complete = bind_sizes(graph, sizes)
    parameters = graph.parameters if parameters is None else parameters
    return sum(count_bytes(value.type, complete) for value in (*parameters, *graph.state))


class Planner(Protocol):
    """What a configuration would need, planned and not allocated; GraphirError for one that cannot be."""

    def tensors(self, config: TrainConfig) -> int:
        """Bytes of parameters and state, without a plan."""

    def need(self, config: TrainConfig, level: str | None, alone: bool = False) -> Need:
        """At a level of recomputation, with all ranks in this process, or, if `alone`, one."""


# -- refusing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """A configuration, at a level of recomputation, and the `free` bytes that it has to do with; None: no limit."""

    config: TrainConfig
    level: str | None
    planner: Planner
    free: int | None

    def refuse_tensors(self) -> ConfigError | None:
        """The error of a model so large that its tensors alone do not fit, found without planning all its layers."""
        if self.free is None or (self.config.layers or 0) <= _MANY:
            return None
        one, two = (self.planner.tensors(replace(self.config, layers=count)) for count in (1, 2))
        tensors = one + (self.config.layers - 1) * (two - one)
        need = Need(tensors, checkpoint=2 * tensors)
        return self.refuse(need)

    def refuse(self, need: Need) -> ConfigError | None:
        """The error of a need that is more than is free: the plan's table, and what would fit; None if it fits."""
        if self.free is None or need.bytes <= self.free:
            return None
        least = "at least " if not need.step else ""
        lines = [f"training needs {least}{need}; {spelled(self.free)} of memory are free"]
        lines += [need.plan] if need.plan else []
        found = list(self._suggestions(self.free))
        if found:
            about = ", by the plans of 2 and of 3 layers" if (self.config.layers or 0) > _FEW else ", as planned"
            lines += [f"What fits{about}:", *(f"  {text}" for text in found)]
        else:
            lines.append("Nothing that was tried fits; choose a smaller --width")
        lines.append("--ignore-memory goes on nevertheless")
        return ConfigError("\n".join(lines))

    # -- what would fit -------------------------------------------------------------------------------

    def _suggestions(self, free: int) -> Iterator[str]:
        """Options, each with what its plan needs: recomputation, a smaller batch, ranks elsewhere, fewer layers."""
        strongest, least = LEVELS[-1], replace(self.config, batch=max(self.config.dp, 1))
        if self._need(least, strongest).tensors * 3 <= free:
            yield from self._more_recomputation(free)
            yield from self._smaller_batch(free)
            yield from self._ranks_elsewhere(free)
        yield from self._fewer_layers(free)

    def _more_recomputation(self, free: int) -> Iterator[str]:
        for level in LEVELS[LEVELS.index(self.level or "masks") + 1 :]:
            need = self._need(self.config, level)
            if need.bytes <= free:
                yield f"--recompute {level}: {spelled(need.bytes)}"
                return

    def _smaller_batch(self, free: int) -> Iterator[str]:
        for level in dict.fromkeys((self.level, LEVELS[-1])):
            batch = self.config.batch // 2
            while batch and batch % self.config.dp == 0:
                need = self._need(replace(self.config, batch=batch), level)
                if need.bytes <= free:
                    yield f"--batch {batch}{f' --recompute {level}' if level else ''}: {spelled(need.bytes)}"
                    return
                batch //= 2

    def _ranks_elsewhere(self, free: int) -> Iterator[str]:
        ranks = 2
        while self.config.mesh().size == 1 and ranks <= _MOST_RANKS:
            for options in ({"tp": ranks}, {"dp": ranks}):
                try:
                    need = self._need(replace(self.config, **options), self.level, alone=True)  # type: ignore[arg-type]
                except GraphirError:  # the heads, or the batch, are not to be divided by so many
                    continue
                if need.bytes <= free:
                    words = " ".join(f"--{name} {count}" for name, count in options.items())
                    yield f"{words}, its ranks as processes on {ranks} machines: {spelled(need.bytes)} on each"
                    return
            ranks *= 2

    def _fewer_layers(self, free: int) -> Iterator[str]:
        if not self.config.layers:  # those of its weights
            return
        two, three = (self._need(replace(self.config, layers=count), self.level).bytes for count in (2, 3))
        layers = 2 + (free - two) // max(three - two, 1)
        if 1 < layers < self.config.layers:
            need = self._need(replace(self.config, layers=layers), self.level)
            yield f"--layers {layers}: {spelled(need.bytes)}"

    def _need(self, config: TrainConfig, level: str | None, alone: bool = False) -> Need:
        """The need of a configuration; of many layers, which are alike, by the plans of 2 and of 3."""
        if (config.layers or 0) <= _FEW:
            return self.planner.need(config, level, alone)
        two, three = (self.planner.need(replace(config, layers=count), level, alone) for count in (2, 3))
        parts = {}
        for name in ("tensors", "step", "validation", "checkpoint"):
            first, second = getattr(two, name), getattr(three, name)
            parts[name] = first + (config.layers - 2) * max(second - first, 0)
        return Need(**parts)
