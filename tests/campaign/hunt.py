"""Hunting for faults that were put in on purpose: who finds each, the proof or the numbers, and after how many graphs.

    python -m tests.campaign.hunt [--markdown FILE]

Graphs are the campaign's, every other one a causal training step of the Transformer, tiny, under a tiling of its own;
where it is kernels that are wrong, two nodes that one of Numba's might be taken for both.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import graphir as gi
from graphir.errors import GraphirError, ProofError
from graphir.ir.graph import Graph
from graphir.passes import autodiff
from tests.campaign.draw import draw
from tests.campaign.faults import FAULTS
from tests.campaign.trial import UnfitError, attempt, refer
from tests.campaign.ways import draw_ways
from tests.support.poison import poisoned
from tests.support.tilings import drawn

#: A fault that so many graphs do not show is not found.
BUDGET = 120


@dataclass(frozen=True)
class Catch:
    """By whom a fault was found, after how many graphs, and what was said."""

    by: str
    graphs: int
    said: str


def hunt(name: str, budget: int = BUDGET) -> Catch | None:
    """Looks for a fault while it is there; None if `budget` graphs do not show it."""
    with FAULTS[name](), poisoned():
        for number in range(budget):
            for by, said in _look(number, "kernel" in name):
                return Catch(by, number + 1, said.partition("\n")[0])
    return None


def _look(number: int, kernels: bool) -> Iterator[tuple[str, str]]:
    """What the graph of that number shows."""
    if kernels:
        yield from _kernels()
    elif number % 2:
        yield from _step(number)
    else:
        yield from _drawn(number // 2)


def _drawn(seed: int) -> Iterator[tuple[str, str]]:
    """One of the campaign's graphs, in those of its ways that are compiled: proved, and by its numbers."""
    case, rng = draw(seed, None), random.Random(f"hunt {seed}")
    try:
        known = refer(case)
    except UnfitError:
        return
    for way in draw_ways(rng, case):
        for by, check in (("proof", True), ("numbers", False)):
            if way.is_compiled:
                departure = attempt(case, replace(way, check=check), known).departure
                if departure is not None:
                    yield (
                        ("proof" if "ProofError" in departure.fault else by if not check else "numbers"),
                        str(departure),
                    )


_STEPS: dict[bool, Graph] = {}


def _step(number: int) -> Iterator[tuple[str, str]]:
    """A training step of causal attention, its scores stored for the backward pass."""
    rng = np.random.default_rng(number)
    masked = bool(number % 4 == 1)
    if masked not in _STEPS:
        mask = "padding" if masked else "none"
        _STEPS[masked] = autodiff(gi.models.transformer(1, dropout=0.0, mask=mask, dtype="float64"))
    graph = _STEPS[masked]
    sizes = {"B": 2, "S": 6, "D": 4, "N_H": 2, "D_ff": 4, "V": 5}
    start = {name: np.asarray(array) for name, array in gi.initialize(graph, sizes, seed=number).items()}
    given: dict[str, Any] = {"T": rng.integers(0, 5, (2, 6)), "Y": rng.integers(0, 5, (2, 6)), "seed": 1, "step": 2}
    if masked:
        given["keep"] = rng.random((2, 6)) < 0.6
    wanted = gi.compile(graph, sizes, backend="reference")(start, given)
    options: dict[str, Any] = {"threads": 1 + number % 4, "tiling": drawn(number), "recompute": "nothing"}
    for check in (True, False):
        try:
            made = gi.compile(graph, sizes, check=check, **options)(start, given)
        except ProofError as error:
            yield "proof", str(error)
            continue
        except (GraphirError, ValueError) as error:
            yield "numbers", f"raised {type(error).__name__}: {error}"
            continue
        for name, array in wanted.items():
            if not np.allclose(made[name], array, rtol=1e-9, atol=1e-9):
                yield "numbers", f"other numbers: {name}"
                break


def _kernels() -> Iterator[tuple[str, str]]:
    """2·X and 3·X, by Numba."""
    from graphir.backends.numpy.fast import kernels

    B = gi.dim("B")
    rng = np.random.default_rng(0)
    for by in (2.0, 3.0):
        block = gi.Builder("scaled", dtype="float64")
        graph = block.build(gi.activation(gi.scale(block.input("X", (B, B)), by=by), name="Y"))
        given = {"X": rng.standard_normal((4, 4))}
        wanted = gi.compile(graph, {"B": 4}, backend="reference")(given)["Y"]
        least, kernels.LEAST = kernels.LEAST, 0
        try:
            run = gi.compile(graph, {"B": 4}, kernels="numba", check=False)
            if by == 2.0:
                plans = run.kernels._plans  # type: ignore[attr-defined]
            run.kernels._plans = plans  # type: ignore[attr-defined]
            made = run(given)["Y"]
        finally:
            kernels.LEAST = least
        if not np.allclose(made, wanted):
            yield "numbers", f"{by} X is something else"


def main() -> None:
    """Hunts all, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.hunt", description=__doc__)
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    given = parser.parse_args()
    lines = ["| fault put in on purpose | found by | after graphs |", "|---|---|---:|"]
    for name in FAULTS:
        catch = hunt(name)
        lines.append(
            f"| {name} | {'nobody' if catch is None else catch.by} | {'' if catch is None else catch.graphs} |"
        )
        print(lines[-1], "" if catch is None else catch.said[:100], flush=True)
    if given.markdown is not None:
        given.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
