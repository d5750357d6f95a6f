"""How long it takes to make a training step out of a model, stage by stage, without running it.

    python benchmarks/compile_time.py [--layers 12 48 96] [--rounds 7] [--json FILE]

The documents' Transformer, dropout 0.1, is built, differentiated, extended by AdamW, sharded by data and tensor
parallelism over two by two ranks, verified, put through the optimising passes and planned, and the programs of its four
ranks are written. Each stage starts from what the one before made. Times are milliseconds of processor time, which
other programs on the machine disturb less than they do the clock, and the least of several rounds. `cold` is the sum of
the first round: type checks and placements are kept, so the first model of a process costs a little more. Growth is
linear when a row's ratio is the ratio of the layers: 8 from 12 to 96.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import graphir as gi
from graphir.backends.compiled.program import Program
from graphir.backends.numpy import NumpyExecutable
from graphir.backends.plan import plan_complete
from graphir.ir.graph import Graph
from graphir.passes import autodiff, optimize, run_pipeline, shard

#: The sizes that the plan is for: those of the medium benchmark.
SIZES = {"B": 4, "S": 256, "D": 512, "N_H": 8, "D_ff": 2048, "V": 8192}


def plan(graph: Graph) -> NumpyExecutable:
    """Tiles, assignments and the arena, for two threads."""
    return NumpyExecutable(plan_complete(graph, SIZES | {"D_h": SIZES["D"] // SIZES["N_H"]}), graph, threads=2)


def write(executable: NumpyExecutable) -> list[Program]:
    """Every rank's calls."""
    return executable.programs


#: What each stage makes of the result of the one before; the first is handed the number of layers.
STAGES: Mapping[str, Callable[[Any], Any]] = {
    "build": partial(gi.models.transformer, dropout=0.1),
    "autodiff": autodiff,
    "optimize": optimize,
    "shard": partial(shard, mesh=gi.Mesh(dp=2, tp=2), plan="data+megatron"),
    "verify": gi.verify,
    "passes": run_pipeline,
    "plan": plan,
    "write": write,
}
#: Sums of stages that should stay below a limit: the stages, and milliseconds by layers.
GOALS = {
    ("build", "autodiff", "shard", "verify"): {12: 200, 96: 1000},
    ("passes", "plan"): {12: 500, 96: 3000},
}

#: Milliseconds by row.
Times: TypeAlias = dict[str, float]


def compile_once(layers: int) -> Times:
    """The time of each stage, and their sum."""
    times: Times = {}
    result: Any = layers
    for stage, work in STAGES.items():
        gc.collect()
        start = time.process_time()
        result = work(result)
        times[stage] = 1e3 * (time.process_time() - start)
    return {**times, "sum": sum(times.values())}


def measure(sizes: list[int], rounds: int) -> dict[int, Times]:
    """By number of layers: the least times over rounds, and the sum of the first round."""
    cold = {layers: compile_once(layers)["sum"] for layers in sizes}
    found = [{layers: compile_once(layers) for layers in sizes} for _ in range(rounds)]
    return {
        layers: {row: min(each[layers][row] for each in found) for row in (*STAGES, "sum")} | {"cold": cold[layers]}
        for layers in sizes
    }


def import_time(rounds: int) -> float:
    """Milliseconds of `import graphir` in a new process."""
    program = "import time; start = time.process_time(); import graphir; print(time.process_time() - start)"
    found = [subprocess.run([sys.executable, "-c", program], check=True, capture_output=True) for _ in range(rounds)]
    return 1e3 * min(float(each.stdout) for each in found)


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def print_table(results: Mapping[int, Times], imported: float) -> None:
    few, many = min(results), max(results)
    print(f"{'layers':<12}" + "".join(f"{layers:>10}" for layers in results) + f"{'ratio':>10}")
    for row in (*STAGES, "sum", "cold"):
        times = "".join(f"{each[row]:>10.1f}" for each in results.values())
        print(f"{row:<12}{times}{results[many][row] / results[few][row]:>10.2f}")
    for stages, limits in GOALS.items():
        for layers in sorted(limits.keys() & results.keys()):
            found = sum(results[layers][stage] for stage in stages)
            print(f"{' + '.join(stages)}, {layers} layers: {found:.0f} ms (goal {limits[layers]})")
    print(f"import graphir: {imported:.0f} ms (goal 150)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 48, 96], help="of the models (default 12 48 96)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the least of (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the times to FILE")
    arguments = parser.parse_args()
    results, imported = measure(arguments.layers, arguments.rounds), import_time(arguments.rounds)
    versions = ", ".join(f"{name} {version}" for name, version in environment().items())
    print(f"{versions}, {arguments.rounds} rounds, ms")
    print_table(results, imported)
    if arguments.json:
        report = {"environment": environment(), "milliseconds": results, "import": imported}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
