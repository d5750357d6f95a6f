"""Real ranks: what a step sends and takes against N, what overlap buys, and an all-reduce against raw mpi4py.

    python -m benchmarks.mpi                        all counts of processes that are asked for, one after the other
    python -m benchmarks.mpi --counts 1,2 --write benchmarks/results/mpi.md

Each measurement is the best and the median of interleaved rounds. Bytes are what one rank sends by the ring's formula.
Ranks of one machine share its cores and its memory: where there are more ranks than cores, times tell what waiting
costs, not how a program scales. All ranks begin a call together, and it ends when the last has finished, so the time of
a barrier, which small messages are no longer than, is in every number.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"B": 12, "S": 64, "D": 192, "N_H": 6, "D_ff": 768, "V": 256}
LAYERS = 2
MESSAGES = (1 << 10, 1 << 16, 1 << 20, 1 << 24)  #: bytes of an all-reduce


def measure(variants: dict[str, Callable[[], object]], rounds: int, barrier: Callable[[], None]) -> dict[str, Any]:
    """Milliseconds of each variant, best and median of rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round in range(rounds + 1):
        for name, run in variants.items():
            barrier()
            start = time.perf_counter()
            run()
            barrier()
            if round:  # the first one warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"best": min(each), "median": statistics.median(each)} for name, each in times.items()}


def measure_steps(axes: dict[str, int], rounds: int) -> dict[str, Any]:
    """A training step on this many ranks: bytes that one sends, and times with and without overlap."""
    import graphir as gi
    from graphir.backends.communicator import communicator_for
    from graphir.checking import Setting

    mesh = gi.Mesh(axes)
    setting = Setting(layers=LAYERS, mesh=mesh, sizes=SIZES, dropout=0.0)
    single = setting.single()
    graph, arguments = setting.parallel(single), setting.arguments(single)
    communicator = communicator_for(mesh, "mpi")
    variants = {
        "each by itself, waited for": {"bucket": 0, "without": ["overlap"]},
        "each by itself, as it is made": {"bucket": 1},
        "buckets of 1 MiB": {"bucket": 1 << 20},
    }
    runs = {name: gi.compile(graph, SIZES, ranks="mpi", **options) for name, options in variants.items()}
    sent = runs["buckets of 1 MiB"](arguments).traffic.values()
    calls: dict[str, Callable[[], object]] = {name: (lambda run=run: run(arguments)) for name, run in runs.items()}
    return {
        "mesh": str(mesh),
        "bytes": sum(each.bytes[communicator.ranks[0]] for each in sent),
        "times": measure(calls, rounds, communicator.barrier),
    }


def measure_all_reduce(rounds: int) -> list[dict[str, Any]]:
    """An all-reduce of float32 over all ranks: ours, which waits politely, and MPI's own, which waits in a loop."""
    from mpi4py import MPI

    import graphir as gi
    from graphir.backends.communicator import communicator_for

    world = MPI.COMM_WORLD
    communicator = communicator_for(gi.Mesh(dp=world.size), "mpi")
    found = []
    for size in MESSAGES:
        block, out = np.ones(size // 4, "float32"), np.empty(size // 4, "float32")

        def ours(block: Any = block, out: Any = out) -> None:
            communicator.all_reduce([block], ("dp",), "sum", [out])

        def raw(block: Any = block, out: Any = out) -> None:
            world.Allreduce(block, out)

        variants: dict[str, Callable[[], object]] = {"graphir": ours, "mpi4py": raw}
        found.append({"bytes": size, "times": measure(variants, rounds, communicator.barrier)})
    return found


def rank_program(rounds: int) -> None:
    """What each rank does; rank 0 prints what was found as JSON."""
    from graphir.backends.communicator.meeting import peers

    size = peers().size
    meshes: list[dict[str, int]] = [{"dp": size}] if size > 1 else [{}]
    if size == 6:
        meshes.append({"dp": 2, "tp": 3})
    steps = [measure_steps(mesh, rounds) for mesh in meshes]
    reduces = measure_all_reduce(rounds) if size > 1 else []
    if peers().rank == 0:
        json.dump({"ranks": size, "steps": steps, "reduces": reduces}, sys.stdout)


def launch(ranks: int, rounds: int) -> dict[str, Any]:
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("there is no mpiexec; pip install '.[mpi]' brings one")
    command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.mpi", "--rank", "--rounds", str(rounds)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report(results: list[dict[str, Any]], rounds: int) -> str:
    """The tables, as Markdown."""
    import graphir

    versions = f"graphir {graphir.__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    load = f", load {os.getloadavg()[0]:.1f} when done" if hasattr(os, "getloadavg") else ""
    sizes = "  ".join(f"{name}={size}" for name, size in SIZES.items())
    lines = [
        "# Real ranks by MPI",
        "",
        f"Written by `python -m benchmarks.mpi` on {datetime.date.today()}: {os.cpu_count()} cores, "
        f"{platform.system()} {platform.machine()}, {versions}{load}.",
        f"Milliseconds, best and median of {rounds} interleaved rounds, one thread a rank. Ranks beyond the number of "
        "cores take turns: these rows tell what waiting costs, not how a program scales. A call ends when all ranks "
        "have finished it; the barrier that finds out is in every number, and outweighs small messages.",
        "",
        f"## A training step (forward, backward, clipping, AdamW) of {LAYERS} layers, {sizes}, float32",
        "",
        "Bytes are what one rank sends, by the ring's formula.",
        "",
        "| ranks | mesh | bytes sent | each by itself, waited for | each by itself, as it is made | buckets of 1 MiB |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for result in results:
        for step in result["steps"]:
            times = " | ".join(f"{each['best']:.1f} / {each['median']:.1f}" for each in step["times"].values())
            lines.append(f"| {result['ranks']} | {step['mesh']} | {step['bytes']:,} | {times} |")
    lines += ["", "## An all-reduce of float32", "", "| ranks | bytes | graphir | mpi4py |", "|---:|---:|---:|---:|"]
    for result in results:
        for each in result["reduces"]:
            times = " | ".join(f"{one['best']:.3f} / {one['median']:.3f}" for one in each["times"].values())
            lines.append(f"| {result['ranks']} | {each['bytes']:,} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1,2,4,6", help="processes, one run for each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="the Markdown file to write")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_program(options.rounds)
        return
    results = [launch(int(count), options.rounds) for count in options.counts.split(",")]
    text = report(results, options.rounds)
    if options.write is not None:
        options.write.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
