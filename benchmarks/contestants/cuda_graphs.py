"""graphir on a GPU: the problem's graph compiled for CuPy, with ids and parameters on the device, as in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import graphir as gi
from benchmarks.contestants.problem import Problem, norm
from graphir.backends.cupy.device import require_device
from graphir.ir.value import gradient_name


def rate() -> float:
    cupy = require_device()
    A, B = cupy.random.rand(2, 8192, 8192, dtype="float32")
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
    cupy, graph = require_device(), problem.graph()
    updated = [value.name for value in graph.updates.values()]
    run = gi.compile(
        graph,
        problem.sizes,
        backend="cupy",
        precision="tf32" if problem.precision == "tf32" else "float32",
        fetch=["output/L", *updated] if updated else None,
        donate=bool(updated),
    )
    gradients = [] if problem.what == "forward" else [gradient_name(value.name) for value in graph.parameters]
    held: Mapping[str, Any] = {name: cupy.asarray(array) for name, array in parameters.items()}
    given = {name: cupy.asarray(array) if name in "TY" else array for name, array in batch.items()}
    count = 0

    def once() -> Any:
        nonlocal held, count
        result = run(held, {**given, "step": count})
        count += 1
        if updated:
            held = result.updated()
        return result

    def step() -> None:
        once()

    def check() -> dict[str, float]:
        result = once()
        found = {"loss": float(result.numpy("L"))}
        if updated:
            found["next loss"] = float(once().numpy("L"))
        elif gradients:
            found["norm"] = norm(result.numpy(name) for name in gradients)
        return found

    return step, check
