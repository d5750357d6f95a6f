"""The lattice of meshes and plans: parallel = single, over every plan, every axis from 1 to 4 ranks, every option.

    python -m tests.passes.sharding.lattice [--jobs 2] [--only PLAN] [--output benchmarks/results/lattice.md]

Every plan is tried on every mesh: over one axis with every combination of options, over two with eight that a seed
draws for each mesh, over three (64 meshes of up to 64 ranks) with two. Each case is three AdamW steps in float64,
clipping on, labels spread unevenly over dp, and compares the loss, every gradient, and every new parameter and
moment (`tests.support.sharding_cases.worst`). The tests take a sample of the same lattice.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

import graphir as gi
from tests.support.sharding_cases import STEPS, Case, worst

#: What a deviation may be, relative to a tensor's norm.
TOLERANCE = 1e-10

#: Each plan and the axes of its meshes.
LATTICE = {
    "data": ("dp",),
    "zero1": ("dp",),
    "zero2": ("dp",),
    "zero3": ("dp",),
    "megatron": ("tp",),
    "column": ("tp",),
    "vocabulary": ("tp",),
    "megatron+vocabulary": ("tp",),
    "column+vocabulary": ("tp",),
    "sequence": ("tp",),
    "sequence+vocabulary": ("tp",),
    "context": ("cp",),
    "data+megatron": ("dp", "tp"),
    "data+column": ("tp", "dp"),
    "data+megatron+vocabulary": ("dp", "tp"),
    "data+sequence": ("dp", "tp"),
    "data+sequence+zero1": ("tp", "dp"),
    "sequence+vocabulary+zero2": ("dp", "tp"),
    "data+sequence+zero3": ("dp", "tp"),
    "megatron+zero3": ("dp", "tp"),
    "data+context": ("dp", "cp"),
    "context+zero2": ("cp", "dp"),
    "context+megatron": ("cp", "tp"),
    "context+sequence": ("tp", "cp"),
    "data+context+megatron": ("dp", "cp", "tp"),
    "data+context+sequence+vocabulary": ("tp", "cp", "dp"),
    "context+sequence+vocabulary+zero1": ("dp", "tp", "cp"),
    "context+megatron+vocabulary+zero3": ("cp", "dp", "tp"),
}

COUNTS = (1, 2, 3, 4)

#: Combinations of options on each mesh, by its number of axes.
DRAWN = {1: 64, 2: 8, 3: 2}


def options_of(plan: str) -> list[dict[str, object]]:
    """Every combination of options; a padded vocabulary where the plan splits it, means of means where dp does."""
    choices: dict[str, tuple[object, ...]] = {
        "tied": (True, False),
        "dropout": (0.1, 0.0),
        "positions": ("learned", "sinusoidal"),
        "qkv_bias": (False, True),
    }
    if "vocabulary" in plan:
        choices["padded"] = (False, True)
    if plan.startswith("data"):
        choices["mean"] = ("tokens", "replicas")
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def cases(plan: str) -> Iterator[Case]:
    """The lattice's cases of one plan."""
    axes, options = LATTICE[plan], options_of(plan)
    draw = random.Random(plan)
    for counts in itertools.product(COUNTS, repeat=len(axes)):
        for chosen in draw.sample(options, min(DRAWN[len(axes)], len(options))):
            yield replace(Case(plan, tuple(zip(axes, counts, strict=True))), **chosen)  # type: ignore[arg-type]


def sample(count: int, ranks: int, seed: int = 0) -> list[Case]:
    """`count` cases on meshes of at most `ranks` ranks: every plan about as often, mostly on more than one rank."""
    draw, found = random.Random(seed), []
    for plan in itertools.islice(itertools.cycle(LATTICE), count):
        counts = draw.choice(
            [c for c in itertools.product(COUNTS, repeat=len(LATTICE[plan])) if 1 < int(np.prod(c)) <= ranks]
        )
        chosen = draw.choice(options_of(plan))
        found.append(replace(Case(plan, tuple(zip(LATTICE[plan], counts, strict=True))), **chosen))  # type: ignore[arg-type]
    return list(dict.fromkeys(found))


def run(case: Case) -> tuple[Case, float, str]:
    """A case, its worst deviation, and where that is."""
    deviation, where = worst(case)
    return case, deviation, where


def report(results: dict[str, list[tuple[Case, float, str]]], seconds: float) -> str:
    """The table that is kept."""
    every = [each for found in results.values() for each in found]
    case, deviation, where = max(every, key=lambda each: each[1])
    beyond = sum(deviation > TOLERANCE for _, deviation, _ in every)
    lines = [
        "# The lattice of meshes and plans",
        "",
        f"Written by `python -m tests.passes.sharding.lattice`. Each case is {STEPS} AdamW steps of a Transformer of",
        "one layer in float64, clipped, on batches whose valid tokens lie unevenly, parallel against single: loss,",
        "every gradient, every new parameter and moment. A deviation is ‖parallel − single‖ / ‖single‖ of one tensor.",
        "",
        f"{len(every)} cases, {beyond} beyond {TOLERANCE:g}. Worst: {deviation:.1e}, {where}, {case}.",
        f"graphir {gi.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"{platform.system()} {platform.machine()}, {seconds / 60:.0f} minutes.",
        "",
        "| plan | axes | meshes | cases | most ranks | worst deviation |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for plan, found in results.items():
        meshes = {case.mesh for case, _, _ in found}
        most = max(int(np.prod([size for _, size in mesh])) for mesh in meshes)
        worst_here = max(deviation for _, deviation, _ in found)
        axes = " × ".join(LATTICE[plan])
        lines.append(f"| {plan} | {axes} | {len(meshes)} | {len(found)} | {most} | {worst_here:.1e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--only", choices=tuple(LATTICE), action="append", help="only this plan; may be repeated")
    parser.add_argument("--output", type=Path, help="where to write the table, beside printing it")
    arguments = parser.parse_args()
    results, began = {}, time.monotonic()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for plan in arguments.only or LATTICE:
            results[plan] = list(pool.map(run, cases(plan), chunksize=4))
            worst_here = max(results[plan], key=lambda each: each[1])
            print(f"{plan:<36}{len(results[plan]):>6} cases  {worst_here[1]:.1e}  {worst_here[2]}", flush=True)
    table = report(results, time.monotonic() - began)
    print(table)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(table, encoding="utf-8")
    if any(deviation > TOLERANCE for found in results.values() for _, deviation, _ in found):
        raise SystemExit(f"some deviations are beyond {TOLERANCE:g}")


if __name__ == "__main__":
    main()
