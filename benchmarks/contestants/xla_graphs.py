"""graphir by XLA: the problem's graph as one jitted function, ids and parameters on its device, as in training.

What XLA makes of a graph's kernels stands beside what it makes of the same step as JAX's users write it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.contestants import graphs, xla
from benchmarks.contestants.problem import Problem
from graphir.backends import Run
from graphir.backends.xla.library import own_settings


def rate() -> float:
    return xla.rate()


def prepare(
    problem: Problem, parameters: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    with own_settings():
        held = {name: jax.device_put(array.copy()) for name, array in parameters.items()}
        given = {name: jax.device_put(array) if name in "TY" else array for name, array in batch.items()}
    return graphs.prepare(problem, held, given, backend="xla", wait=_wait)


def _wait(run: Run) -> None:
    jax.block_until_ready(list(run.values()))
