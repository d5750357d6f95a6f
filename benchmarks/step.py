"""A training step against its floor, PyTorch and JAX: time, and peak memory.

    python -m benchmarks.step [--sizes small,medium] [--what forward] [--dropout 0,0.1] [--contestants graphir,pytorch]
                              [--rounds 20] [--json FILE]

Each contestant runs in a process of its own; they take turns, and ratios are taken within a round. Rounds in which
other programs ran are dropped. Before anything is timed, all must give the same loss and the same gradients from the
same parameters and batch; under dropout, where each draws its own masks, nearly the same loss. The floor is the
step's matrix products alone, on the same BLAS (`benchmarks/contestants/floor.py`).

--what is forward (the loss, without dropout), gradients (loss and all gradients) or optimizer (these, and AdamW).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contestants import CONTESTANTS, DEFAULT, FLOORS
from benchmarks.contestants.problem import PRECISIONS, SIZES, WORK, Problem
from benchmarks.contestants.rounds import Contestant, Rounds, UnableError, run_rounds
from graphir.processor import processor_name

#: How far apart, relative, losses may be under different dropout masks.
ALIKE = 0.05
#: Whom the table measures each contestant by, beside the floor.
RIVALS = ("pytorch", "jax")


class DisagreementError(Exception):
    """Contestants do not compute the same thing, so their times mean nothing."""


def measure(
    problem: Problem,
    names: Sequence[str],
    rounds: int,
    console: Console,
    on_gpu: bool = False,
    rivals: Sequence[str] = RIVALS,
) -> dict[str, Any]:
    """One problem's table as a JSON object; contestants that cannot take part are in it with the reason.

    Errors: DisagreementError, with the numbers, if contestants give different ones.
    """
    with console.status("") as status:
        taking, reports = [Contestant(name, on_gpu) for name in names], {}
        try:
            for each in list(taking):
                status.update(f"{problem}: {each.name}")
                try:
                    reports[each.name] = {"GFLOP/s": each.ask("rate"), "numbers": each.prepare(problem)}
                except UnableError as reason:
                    reports[each.name] = {"unable": str(reason)}
                    each.close()
                    taking.remove(each)
            require_agreement(problem, {each.name: reports[each.name]["numbers"] for each in taking})
            found = run_rounds(taking, rounds, lambda text: status.update(f"{problem}: {text}"))
            for each in taking:
                reports[each.name] |= {"peak bytes": each.ask("memory"), "seconds": found.seconds[each.name]}
        finally:
            for each in taking:
                each.close()
    return summarise(problem, reports, found, rivals)


def require_agreement(problem: Problem, numbers: Mapping[str, Mapping[str, float]]) -> None:
    """DisagreementError if two contestants' numbers differ: all of them, or the loss alone where masks differ."""
    masks = problem.dropout > 0 and problem.what != "forward"
    for name in ("loss",) if masks else ("loss", "norm", "next loss"):
        given = {who: each[name] for who, each in numbers.items() if name in each}
        first, apart = next(iter(given.values()), 0.0), ALIKE if masks else PRECISIONS[problem.precision]
        if not all(math.isclose(value, first, rel_tol=apart) for value in given.values()):
            listed = ", ".join(f"{who} {value:.6g}" for who, value in given.items())
            raise DisagreementError(f"{problem}: the contestants do not give the same {name}: {listed}")


def summarise(
    problem: Problem, reports: dict[str, dict[str, Any]], rounds: Rounds, rivals: Sequence[str] = RIVALS
) -> dict[str, Any]:
    """Medians and ratios beside each contestant's own numbers."""
    timed = [name for name, each in reports.items() if "seconds" in each]
    floor = min((name for name in timed if name in FLOORS), key=rounds.median, default=None)
    against = {"floor": floor, **{name: name for name in rivals if name in timed}}
    for name in timed:
        reports[name]["median"] = rounds.median(name)
        reports[name]["ratios"] = {of: rounds.ratio(name, other) for of, other in against.items() if other}
    return {
        "problem": problem.to_json(),
        "rounds": {"kept": rounds.kept, "dropped": rounds.dropped, "disturbed": rounds.disturbed},
        "floor": floor,
        "contestants": reports,
    }


def print_table(problem: Problem, found: Mapping[str, Any], console: Console) -> None:
    """Medians; ratios with their quartiles."""
    contestants, rounds = found["contestants"], found["rounds"]
    timed = {name: each for name, each in contestants.items() if "seconds" in each}
    against = list(next(iter(timed.values()), {}).get("ratios", ()))
    console.print(str(problem), style="bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("ms", *(f"÷ {name}" for name in against), "peak MB", "GEMM GFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in timed.items():
        ratios = (quartiles(each["ratios"][of]) for of in against)
        peak = "" if each["peak bytes"] is None else f"{each['peak bytes'] / 1e6:.0f}"
        bold = "bold" if name == found["floor"] else ""
        table.add_row(name, f"{1e3 * each['median']:.1f}", *ratios, peak, f"{each['GFLOP/s']:.0f}", style=bold)
    console.print(table)
    for name, each in contestants.items():
        if "unable" in each:
            console.print(f"without {name}: {each['unable']}", markup=False)
    quality = "none was quiet, so all are shown, and mean little" if rounds["disturbed"] else f"{rounds['kept']} kept"
    console.print(f"medians and quartiles of rounds: {quality}, {rounds['dropped']} in which other programs ran\n")


def quartiles(ratio: tuple[float, float, float]) -> str:
    lower, median, upper = ratio
    return f"{median:.2f} ({lower:.2f}–{upper:.2f})"


def environment() -> dict[str, Any]:
    """What the numbers depend on beside the programs."""
    packages = {}
    for name in ("numpy", "torch", "jax", "numba"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
    }


def problems(sizes: Iterable[str], what: str, rates: Iterable[float]) -> list[Problem]:
    """Every size with every rate of dropout; forward, there is none."""
    return [Problem(size, what, rate) for size in sizes for rate in ((0.0,) if what == "forward" else rates)]


def chosen(known: Iterable[str]) -> Any:
    """An argument's type: some of `known`, with commas between."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")] if text not in known else [text]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(known)}")
        return names

    return read


def run_problems(
    problems: Iterable[Problem],
    show: Callable[[Problem], dict[str, Any]],
    machine: Mapping[str, Any],
    file: Path | None,
    parser: argparse.ArgumentParser,
) -> None:
    """Measures and shows one problem after the other; all so far are in `file`, if one is asked for.

    Ends the program with exit code 1 where contestants do not agree.
    """
    results = []
    try:
        for problem in problems:
            results.append(show(problem))
            if file is not None:
                file.write_text(json.dumps({"environment": machine, "results": results}, indent=1) + "\n")
    except DisagreementError as error:
        parser.exit(1, f"error: {error}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=chosen(SIZES), default=["small", "medium", "large"], help=", ".join(SIZES))
    parser.add_argument("--what", choices=WORK, default="gradients")
    parser.add_argument("--dropout", type=lambda text: [float(each) for each in text.split(",")], default=[0.0, 0.1])
    parser.add_argument("--contestants", type=chosen(CONTESTANTS), default=list(DEFAULT), help=", ".join(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=20, help="how many quiet rounds (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, every round's times too")
    given = parser.parse_args(arguments)
    # A pipe has no width of its own; this one holds every column.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    machine = environment()
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    console.print(f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, {packages}\n")

    def show(problem: Problem) -> dict[str, Any]:
        found = measure(problem, given.contestants, given.rounds, console)
        print_table(problem, found, console)
        return found

    run_problems(problems(given.sizes, given.what, given.dropout), show, machine, given.json, parser)


if __name__ == "__main__":
    main()
