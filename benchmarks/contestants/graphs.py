"""graphir's contestants: the problem's graph compiled, or interpreted node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import graphir as gi
from benchmarks.contestants.problem import Problem, norm
from graphir.backends import Run
from graphir.backends.blas import gemm_rate
from graphir.ir.value import gradient_name


def rate() -> float:
    return gemm_rate()


def prepare(
    problem: Problem,
    parameters: Mapping[str, Any],
    batch: Mapping[str, Any],
    wait: Callable[[Run], None] | None = None,
    **options: Any,
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    graph = problem.graph()
    updated = [value.name for value in graph.updates.values()]
    fetch = ["output/L", *updated] if updated else None
    # A step that updates owns its parameters, as a training loop does: the new may be written over the old.
    run = gi.compile(graph, problem.sizes, fetch=fetch, donate=bool(updated), **options)
    gradients = [] if problem.what == "forward" else [gradient_name(value.name) for value in graph.parameters]
    held, count = dict(parameters), 0

    def once() -> Run:
        nonlocal held, count
        result = run(held, {**batch, "step": count})
        count += 1
        if updated:
            held = result.updated()
        if wait is not None:
            wait(result)
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
