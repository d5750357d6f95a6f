"""How long the sharding pass takes, and what simulating ranks costs.

    python benchmarks/shard.py [--layers 12 96] [--rounds 5] [--json]

The first table: `shard` and `verify` on a whole training step (AdamW, clipped), in milliseconds of processor time,
medians over rounds. Growth is linear when the ratio of times is the ratio of layers.

The second: a training step on simulated ranks, over the same step of the same global sizes on one rank. Splitting
adds no arithmetic where it splits all of it; what a plan repeats on every rank (data: the update; megatron: LN and
dropout) is repeated here, too. So a ratio near 1 says that the simulation itself is nearly free.
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
from graphir.backends.initialize import initialize
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Optimizer, autodiff, optimize, shard

PLANS = {
    "data": Mesh(dp=2),
    "megatron": Mesh(tp=2),
    "data+megatron+vocabulary": Mesh(dp=2, tp=2),
    "data+sequence+zero1": Mesh(dp=2, tp=2),
    "zero3": Mesh(dp=2),
    "data+context+megatron": Mesh(dp=2, cp=2, tp=2),
}
SIZES = {"B": 8, "S": 64, "D": 192, "N_H": 8, "D_ff": 768, "V": 512}


def training_step(layers: int) -> Graph:
    return optimize(autodiff(gi.models.transformer(layers, decode=None)), Optimizer(clip=1.0))


def median_ms(work: Callable[[], object], rounds: int) -> float:
    """Of processor time, which other programs on the machine disturb less than they do the clock."""
    work()
    found = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        work()
        found.append(1e3 * (time.process_time() - start))
    return statistics.median(found)


def time_pass(layers: int, rounds: int) -> dict[str, dict[str, float]]:
    """Per plan: milliseconds of `shard` and of `verify`, and nodes before and after."""
    graph = training_step(layers)
    results = {}
    for plan, mesh in PLANS.items():
        local = shard(graph, mesh, plan)
        results[plan] = {
            "shard": median_ms(lambda: shard(graph, mesh, plan), rounds),  # noqa: B023
            "verify": median_ms(lambda: gi.verify(local), rounds),  # noqa: B023
            "before": len(graph.nodes),
            "after": len(local.nodes),
        }
    return results


def time_ranks(rounds: int) -> dict[str, dict[str, float]]:
    """Per plan: ranks, milliseconds of a step on one rank and of all ranks together, and their ratio."""
    graph = training_step(2)
    held = initialize(graph, SIZES)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SIZES["V"], (2, SIZES["B"], SIZES["S"]))
    batch = {"T": ids[0], "Y": ids[1], "seed": 0, "step": 0}
    single = gi.compile(graph, SIZES)
    alone = median_ms(lambda: single(held, batch), rounds)
    results = {}
    for plan, mesh in PLANS.items():
        parallel = gi.compile(shard(graph, mesh, plan, SIZES), SIZES)
        together = median_ms(lambda: parallel(held, batch), rounds)  # noqa: B023
        results[plan] = {"ranks": mesh.size, "single": alone, "parallel": together, "ratio": together / alone}
    return results


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def print_tables(passes: dict[int, dict[str, dict[str, float]]], ranks: dict[str, dict[str, float]]) -> None:
    print(f"{'plan':<28}{'layers':>8}{'shard':>10}{'verify':>10}{'nodes':>8}{'after':>8}")
    few, many = min(passes), max(passes)
    for plan in PLANS:
        for layers, results in passes.items():
            row = results[plan]
            print(
                f"{plan:<28}{layers:>8}{row['shard']:>10.1f}{row['verify']:>10.1f}"
                f"{row['before']:>8.0f}{row['after']:>8.0f}"
            )
        if few < many:
            ratios = [passes[many][plan][stage] / passes[few][plan][stage] for stage in ("shard", "verify")]
            print(f"{'':<28}{'ratio':>8}" + "".join(f"{ratio:>10.2f}" for ratio in ratios))
    print(f"Times in ms. From {few} to {many} layers, linear growth is a ratio of {many / few:g}.\n")
    print(f"{'plan':<28}{'ranks':>8}{'single':>10}{'parallel':>10}{'ratio':>8}")
    for plan, row in ranks.items():
        print(f"{plan:<28}{row['ranks']:>8.0f}{row['single']:>10.1f}{row['parallel']:>10.1f}{row['ratio']:>8.2f}")
    print(f"A training step of two layers, {', '.join(f'{name}={size}' for name, size in SIZES.items())}; times in ms.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 96], help="sizes of the models (default 12 96)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the tables")
    arguments = parser.parse_args()
    passes = {layers: time_pass(layers, arguments.rounds) for layers in arguments.layers}
    ranks = time_ranks(arguments.rounds)
    if arguments.json:
        print(json.dumps({"environment": environment(), "pass": passes, "ranks": ranks}))
        return
    print(", ".join(f"{name} {version}" for name, version in environment().items()) + f", {arguments.rounds} rounds")
    print_tables(passes, ranks)


if __name__ == "__main__":
    main()
