"""graphir on a GPU: the problem's graph compiled for CuPy, with ids and parameters on the device, as in training.

As there, an odd vocabulary is padded: the numbers stay those of V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.contestants import graphs
from benchmarks.contestants.problem import PaddedProblem, Problem
from graphir.backends.device import require_device


def rate() -> float:
    cupy = require_device()
    # Numbers of any size, by no library but the one that is measured: zeros would cost less power.
    A, B = cupy.sin(cupy.arange(2 * 8192**2, dtype="float32")).reshape(2, 8192, 8192)
    C = cupy.empty_like(A)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.matmul(A, B, out=C)
    start.record()
    for _ in range(3):
        cupy.matmul(A, B, out=C)
    end.record()
    end.synchronize()
    seconds = cupy.cuda.get_elapsed_time(start, end) / 3e3
    return float(2e-9 * 8192**3 / seconds)


def finish() -> None:
    require_device().cuda.Device().synchronize()


def free_memory() -> int:
    cupy = require_device()
    finish()
    cupy.get_default_memory_pool().free_all_blocks()
    return int(cupy.cuda.runtime.memGetInfo()[0])


def prepare(
    problem: Problem, parameters: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    cupy = require_device()
    problem = PaddedProblem(**vars(problem))
    padded = problem.vocabulary.pad(problem.graph(), parameters)
    held = {name: cupy.asarray(array) for name, array in padded.items()}
    given = {name: cupy.asarray(array) if name in "TY" else array for name, array in batch.items()}
    precision = "tf32" if problem.precision == "tf32" else "float32"
    return graphs.prepare(problem, held, given, backend="cupy", precision=precision)
