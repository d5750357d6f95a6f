"""How long it takes to build, differentiate, extend by an optimizer and verify a model, without running it.

    python benchmarks/compile_time.py [--layers 12 96] [--rounds 7] [--json]

Times are medians over rounds, in milliseconds, after one round of warm-up (type checks are cached by
operator and types, so the first model of a process costs a little more; `cold` is that first round).
Growth is linear when the ratio of times is the ratio of layers: 8 from 12 to 96.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

import graphir as gi
from graphir.passes import autodiff, optimize

STAGES = ("build", "autodiff", "optimize", "verify")


def measure(layers: int) -> dict[str, float]:
    """Milliseconds of each stage, and the number of nodes at the end."""
    times: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], gi.Graph]) -> gi.Graph:
        start = time.perf_counter()
        graph = work()
        times[stage] = 1e3 * (time.perf_counter() - start)
        return graph

    gc.collect()
    model = timed("build", lambda: gi.models.transformer(layers))
    joint = timed("autodiff", lambda: autodiff(model))
    step = timed("optimize", lambda: optimize(joint))
    timed("verify", lambda: gi.verify(step))
    return {**times, "total": sum(times.values()), "nodes": len(step.nodes)}


def run(layers: int, rounds: int) -> dict[str, float]:
    """The medians over `rounds`, and the first, cold round's total."""
    cold = measure(layers)["total"]
    found = [measure(layers) for _ in range(rounds)]
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    return {**medians, "cold": cold}


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def print_table(results: dict[int, dict[str, float]]) -> None:
    columns = [*STAGES, "total", "cold", "nodes"]
    print(f"{'layers':>8}" + "".join(f"{name:>10}" for name in columns))
    for layers, each in results.items():
        print(f"{layers:>8}" + "".join(f"{each[name]:>10.1f}" for name in columns[:-1]) + f"{each['nodes']:>10.0f}")
    if len(results) > 1:
        few, many = min(results), max(results)
        ratios = "".join(f"{results[many][name] / results[few][name]:>10.2f}" for name in columns)
        print(f"{'ratio':>8}{ratios}")
        print(f"Times in ms. Layers grow {many / few:g}-fold from {few} to {many}; linear growth is a ratio of that.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 96], help="sizes of the models (default 12 96)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median of (default 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    arguments = parser.parse_args()
    results = {layers: run(layers, arguments.rounds) for layers in arguments.layers}
    if arguments.json:
        print(json.dumps({"environment": environment(), "rounds": arguments.rounds, "milliseconds": results}))
        return
    print(", ".join(f"{name} {version}" for name, version in environment().items()) + f", {arguments.rounds} rounds")
    print_table(results)


if __name__ == "__main__":
    main()
