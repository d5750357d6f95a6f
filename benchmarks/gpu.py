"""A training step on a GPU against its floor and PyTorch: time, throughput and peak memory.

    python -m benchmarks.gpu [--precisions float32,tf32,bfloat16] [--dropout 0,0.1] [--contestants graphir,floor]
                             [--size gpt2,gpt2-50304] [--what optimizer] [--rounds 20] [--json FILE]

GPT-2 small, B 8, S 1024, unless told otherwise. Contestants take turns on one device, each in a process of its own, and
ratios are taken within a round; before anything is timed all must give the same loss (`benchmarks.step`). PyTorch runs
eagerly, with its fused attention or a plain one, and compiled. The floor is the step's matrix products alone, by
cuBLAS (`benchmarks/contestants/cuda_floor.py`); TFLOP/s count these products, whoever forms them.

50257 tokens make rows of logits that tensor cores are slow on. Of `gpt2`, PyTorch has them as its users write it, while
graphir and the floor multiply 50304 rows, the last of them zeros, and all give the loss of 50257. Of `gpt2-50304`
everyone has 50304 tokens, as nanoGPT trains it. Each contestant is compiled anew for a size, which takes minutes: one
size is the default.

Without a GPU it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import ON_GPU
from benchmarks.contestants.floor import Products
from benchmarks.contestants.problem import PRECISIONS, SIZES, WORK, Problem
from benchmarks.step import chosen, environment, measure, quartiles, run_problems
from graphir.backends.device import device_properties
from graphir.errors import DeviceError, MissingDependencyError
from graphir.passes import dce

#: Whom the table measures each contestant by, beside the floor.
RIVALS = ("eager+sdpa", "torch.compile")


class _Shapes(Products):
    """The step's products without their arrays: as many operations, and no memory."""

    def _stored(self, key: object, shape: tuple[int, ...]) -> Any:
        return np.broadcast_to(np.float32(0), shape)


def flops(problem: Problem) -> int:
    """Of the step's matrix products, of attention's the causal half, by blocks as small as hardly to exceed it."""
    graph = dce(Problem(problem.size, problem.what, problem.dropout).graph())
    return _Shapes(graph, problem.sizes, 1, block=16, tile=1 << 30).flops


def add_rates(problem: Problem, found: dict[str, Any]) -> None:
    """Adds tokens a second, TFLOP/s and the share of the floor to each contestant of a table."""
    tokens, operations = prod(problem.sizes[name] for name in "BS"), flops(problem)
    contestants = found["contestants"]
    for each in contestants.values():
        if "seconds" in each:
            each["tokens/s"] = tokens / each["median"]
            each["TFLOP/s"] = 1e-12 * operations / each["median"]
            if "floor" in each["ratios"]:
                lower, median, upper = each["ratios"]["floor"]
                each["share of the floor"] = [1 / upper, 1 / median, 1 / lower]
    found["FLOPs"] = operations


def print_table(problem: Problem, found: Mapping[str, Any], console: Console) -> None:
    """Medians; ratios with their quartiles, of times within a round."""
    timed = {name: each for name, each in found["contestants"].items() if "seconds" in each}
    against = [name for name in RIVALS if any(name in each["ratios"] for each in timed.values())]
    console.print(str(problem), style="bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("ms", "tokens/s", "TFLOP/s", "of the floor", *(f"÷ {name}" for name in against), "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in timed.items():
        share = quartiles(each["share of the floor"]) if "share of the floor" in each else ""
        ratios = (quartiles(each["ratios"][of]) for of in against)
        numbers = f"{1e3 * each['median']:.2f}", f"{each['tokens/s']:,.0f}", f"{each['TFLOP/s']:.1f}"
        style = "bold" if name == found["floor"] else ""
        table.add_row(name, *numbers, share, *ratios, f"{each['peak bytes'] / 1e6:.0f}", style=style)
    console.print(table)
    for name, each in found["contestants"].items():
        if "unable" in each:
            console.print(f"without {name}: {each['unable']}", markup=False)
    rounds = found["rounds"]
    quality = "none was quiet, so all are shown, and mean little" if rounds["disturbed"] else f"{rounds['kept']} kept"
    console.print(f"medians and quartiles of rounds: {quality}, {rounds['dropped']} in which other programs ran\n")


def setting() -> dict[str, Any]:
    """When, on what, and with which versions. Errors: as of `device_properties`."""
    properties = device_properties()
    packages = environment()["packages"]
    for name in ("cupy-cuda12x", "cupy-cuda13x", "triton", "graphir"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        **environment(),
        "packages": packages,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {**asdict(properties), "text": str(properties)},
    }


def problems(sizes: Sequence[str], what: str, precisions: Sequence[str], rates: Sequence[float]) -> list[Problem]:
    """Every size in every precision with every rate of dropout."""
    return [Problem(size, what, rate, precision) for size in sizes for precision in precisions for rate in rates]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=chosen(SIZES), default=["gpt2"], help=", ".join(SIZES))
    parser.add_argument("--what", choices=WORK, default="optimizer")
    parser.add_argument("--precisions", type=chosen(PRECISIONS), default=list(PRECISIONS), help=", ".join(PRECISIONS))
    parser.add_argument("--dropout", type=lambda text: [float(each) for each in text.split(",")], default=[0.0, 0.1])
    parser.add_argument("--contestants", type=chosen(ON_GPU), default=list(ON_GPU), help=", ".join(ON_GPU))
    parser.add_argument("--rounds", type=int, default=20, help="how many quiet rounds (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, every round's times too")
    given = parser.parse_args(arguments)
    try:
        machine = setting()
    except (DeviceError, MissingDependencyError) as error:
        parser.exit(2, f"error: {error}\n")
    # A pipe has no width of its own; this one holds every column.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    console.print(f"{machine['date']}, {machine['device']['text']}; Python {machine['python']}, {packages}\n")

    def show(problem: Problem) -> dict[str, Any]:
        found = measure(problem, given.contestants, given.rounds, console, on_gpu=True, rivals=RIVALS)
        add_rates(problem, found)
        print_table(problem, found, console)
        return found

    run_problems(problems(given.size, given.what, given.precisions, given.dropout), show, machine, given.json, parser)


if __name__ == "__main__":
    main()
