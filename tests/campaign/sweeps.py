"""Sweeps over sizes: every size from the smallest on, where a drawn one might not meet the one that matters.

    python -m tests.campaign.sweeps [--only causal] [--threads 1,2,8] [--proofs] [--markdown FILE]

Each compiled program is held to the interpreter in float64, by the engine's own tiling, and runs twice, which must give
the same bits. How far apart two results may be is said at `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import graphir as gi
from benchmarks.contestants.problem import OPTIMIZER, SIZES
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.passes import autodiff, optimize
from tests.campaign.trial import MASKED
from tests.support.poison import poisoned

B, D, E, F, H, K = gi.dims("b d e f h k")
THREADS = tuple(range(1, 9))
#: How far apart two executors may be, of the largest number of a value and a part of the largest of all: float64, and
#: sums of up to some thousand terms.
TOLERANCE = 2.0**-53 * 2**12
#: That part: what is nothing but rounding, as the gradient of K's bias, is as large as what it is left of.
OF_ALL = 2.0**-8

# -- the graphs -------------------------------------------------------------------------------------------

#: What has one value in two roles.
SQUARES: dict[str, Callable[[Value], Value]] = {
    "X + Xᵀ": lambda X: gi.add(X, gi.transpose(X)),
    "X • Xᵀ": lambda X: gi.matmul(X, gi.transpose(X)),
    "Xᵀ • X": lambda X: gi.matmul(gi.transpose(X), X),
    "X • X": lambda X: gi.matmul(X, X),
    "X ⊙ Xᵀ": lambda X: gi.multiply(X, gi.transpose(X)),
    "S(X • Xᵀ) • X": lambda X: gi.matmul(gi.softmax(gi.matmul(X, gi.transpose(X))), X),
    "Σ gelu(X) ⊙ Xᵀ": lambda X: gi.reduce_sum(gi.multiply(gi.activation(X), gi.transpose(X)), (0,)),
}


@cache
def square(expression: str) -> Graph:
    """One of `SQUARES`."""
    block = gi.Builder("square", dtype="float64")
    return block.build(SQUARES[expression](block.input("X", (B, B))))


@cache
def spread_sum() -> Graph:
    """A sum whose only stored form is a broadcast."""
    block = gi.Builder("sums", dtype="float64")
    X = block.input("X", (B, D))
    total = gi.reduce_sum(gi.exponential(X), (0,), name="Y")
    return block.build(gi.broadcast(total, (K,), axes=(0,), name="Z"))


@cache
def spread_rows() -> Graph:
    """Results that are views of what nobody else sees."""
    block = gi.Builder("views", dtype="float64")
    X = block.input("X", (B, D))
    Z = gi.broadcast(gi.reduce_sum(X, (1,)), (D,), axes=(1,), name="Z")
    return block.build(Z, gi.activation(gi.add(X, gi.scale(Z, by=-0.5)), kind="silu", name="R"))


@cache
def merged() -> Graph:
    """Dims that are merged and split otherwise."""
    block = gi.Builder("merged", dtype="float64")
    X = block.input("X", (E, D))
    flat = gi.exponential(gi.reshape(gi.scale(X, by=2.0), "e d -> (e d)"))
    return block.build(gi.scale(gi.reshape(flat, "(d e) -> d e", d=D), by=3.0, name="Z"))


@cache
def folded() -> Graph:
    """A view of a sum with a loop as its minor factor."""
    block = gi.Builder("minor", dtype="float64")
    X = block.input("X", (H, F, B))
    return block.build(gi.reshape(gi.reduce_sum(X, (2,)), "h f -> (h f)", name="Z"))


@cache
def transformer(causal: bool = True, mask: str = "none", dropout: float = 0.0) -> Graph:
    """One layer's training step, without the optimizer."""
    return autodiff(gi.models.transformer(1, causal=causal, mask=mask, dropout=dropout, dtype="float64"))


def arguments(
    graph: Graph, sizes: Mapping[str, int], seed: int = 0
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any] | int]]:
    """Parameters and inputs of `transformer`; with padding, there are queries that see no key."""
    rng = np.random.default_rng(seed)
    start = {
        name: np.asarray(array) + 0.3 * rng.standard_normal(array.shape)
        for name, array in gi.initialize(graph, sizes).items()
    }
    return start, batch(graph, sizes, rng)


def batch(graph: Graph, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, NDArray[Any] | int]:
    """Inputs of `transformer`."""
    ids, labels = (rng.integers(0, sizes["V"], (sizes["B"], sizes["S"])) for _ in "TY")
    given: dict[str, NDArray[Any] | int] = {"T": ids, "Y": labels, "seed": 1, "step": 2}
    if any(value.name == "keep" for value in graph.inputs):
        given["keep"] = rng.random((sizes["B"], sizes["S"])) < 0.6
    return given


# -- the sweeps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A graph at some sizes, with its arguments.

    alone      whether every value is fetched alone, and beside the results
    together   else every value is fetched, so many at a time; with 0 the results are
    """

    what: str
    graph: Graph
    sizes: Mapping[str, int]
    given: Sequence[Mapping[str, Any]]
    alone: bool = False
    together: int = 0

    def __str__(self) -> str:
        return f"{self.what} {', '.join(f'{name}={size}' for name, size in self.sizes.items())}"


def _training(graph: Graph, what: str, batch: int, length: int, heads: int, width: int) -> Point:
    size = {"B": batch, "S": length, "D": heads * width, "N_H": heads, "D_ff": 4 * heads * width, "V": 17}
    return Point(what, graph, size, arguments(graph, size))


def causal() -> Iterator[Point]:
    """Gradients of causal attention: 960 tiny configurations, half of them with queries that see no key."""
    for heads, width, batch, length, mask in product(
        (1, 2, 3, 4), (1, 3, 4), (1, 2), (2, 5, 8, 9, 12, 13, 16, 17, 20, 23, 24, 25, 28, 31, 32, 33, 36, 39, 40, 41),
        ("none", "padding"),
    ):  # fmt: skip
        yield _training(transformer(mask=mask), f"causal, mask {mask}", batch, length, heads, width)


def roles() -> Iterator[Point]:
    """One value in two roles, b from 1 to 300."""
    rng = np.random.default_rng(0)
    for size, expression in product(range(1, 301), SQUARES):
        X = rng.standard_normal((size, size)) / size**0.5
        yield Point(expression, square(expression), {"b": size}, [{"X": X}])


def empty() -> Iterator[Point]:
    """Queries that see no key, S from 1 to 200, with and without a causal mask."""
    for length, causal in product(range(1, 201), (True, False)):
        yield _training(transformer(causal, "padding"), f"padding, causal {causal}", 2, length, 2, 3)


def views() -> Iterator[Point]:
    """Sums that are read through views, and dims merged and split; every value alone and beside the results."""
    rng = np.random.default_rng(0)
    for b, d in product((1, 2, 3, 5, 7, 31, 64, 129, 500, 700), (1, 2, 3, 65, 768, 1001)):
        X = rng.standard_normal((b, d))
        yield Point("broadcast of a sum", spread_sum(), {"b": b, "d": d, "k": 2}, [{"X": X}], alone=True)
        yield Point("broadcast of rows' sums", spread_rows(), {"b": b, "d": d}, [{"X": X}], alone=True)
        yield Point("merged, then split", merged(), {"e": b, "d": d}, [{"X": 0.1 * X}], alone=True)
    for h, f, b in product((1, 2, 3, 5), (1, 2, 4), (1, 2, 1000, 10000)):
        given = [{"X": rng.standard_normal((h, f, b))}]
        yield Point("sums folded", folded(), {"h": h, "f": f, "b": b}, given, alone=True)
    yield Point("broadcast of a sum", spread_sum(), {"b": 7000, "d": 1001, "k": 2}, [{"X": rng.random((7000, 1001))}])


def benchmark() -> Iterator[Point]:
    """Every tensor of a training step at the benchmark's sizes, with dropout, and AdamW save at the largest."""
    for name in ("tiny", "small", "medium", "large"):
        size = dict(SIZES[name])
        model = gi.models.transformer(size.pop("L"), dropout=0.1, activation="gelu_tanh", decode=None, dtype="float64")
        step = autodiff(model) if name == "large" else optimize(autodiff(model), OPTIMIZER)
        rng = np.random.default_rng(1)
        # Biases and moments are not 0, and second moments not negative.
        start = {
            name: np.asarray(array) + 0.02 * np.abs(rng.standard_normal(array.shape))
            for name, array in gi.initialize(step, size).items()
        }
        yield Point(name, step, size, (start, batch(step, size, rng)), together=64)


SWEEPS: Mapping[str, Callable[[], Iterator[Point]]] = {
    "causal": causal, "roles": roles, "empty": empty, "views": views, "benchmark": benchmark,
}  # fmt: skip


# -- running them -----------------------------------------------------------------------------------------


@dataclass
class Swept:
    """What a sweep found; `largest` is the farthest off of all that is right, of the largest value."""

    name: str
    points: int = 0
    runs: int = 0
    comparisons: int = 0
    largest: float = 0.0
    departures: list[str] = field(default_factory=list)


def hold(point: Point, threads: Sequence[int], swept: Swept, proofs: bool = False) -> None:
    """Runs one point on so many threads each, and notes what departs."""
    swept.points += 1
    fetches: list[list[str] | None] = [None]
    if point.alone:
        results = [value.name for value in point.graph.outputs]
        fetches += [list(dict.fromkeys(names)) for name in point.graph.values for names in ([name], [*results, name])]
    if point.together:
        names = list(point.graph.values)
        fetches += [names[start : start + point.together] for start in range(0, len(names), point.together)]
    wanted = gi.compile(point.graph, point.sizes, backend="reference", fetch=list(point.graph.values))(*point.given)
    sizes = {name: _size(array) for name, array in wanted.items()}
    least = OF_ALL * max(1.0, *sizes.values())
    for count, fetch in product(threads, fetches):
        run = gi.compile(point.graph, point.sizes, threads=count, fetch=fetch, check=proofs)
        first, second = run(*point.given), run(*point.given)
        swept.runs += 1
        for name in first:
            swept.comparisons += 1
            off = _apart(first[name], wanted[name]) / (sizes[name] + least)
            same = np.array_equal(first[name], second[name], equal_nan=True)
            if not off <= TOLERANCE or not same:
                how = f"off by {off:.1e}" if same else "other bits in the second run"
                swept.departures.append(f"{point}, {count} threads, fetch {fetch}: {name} {how}")
            else:
                swept.largest = max(swept.largest, off)


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """How far two are apart; for ever where it is no number that they are apart by."""
    if one.dtype == bool:
        return float(np.not_equal(one, other).any())
    return float(np.abs(one - other).max(initial=0.0))


def _size(array: NDArray[Any]) -> float:
    """Of the largest number; what is masked is none, nor is an index."""
    if not np.issubdtype(array.dtype, np.floating):
        return 0.0
    return float(np.abs(array).max(initial=0.0, where=array > MASKED))


def report(sweeps: Sequence[Swept], threads: Sequence[int], proofs: bool) -> str:
    """The figures as a section of a page."""
    lines = [
        "## Sweeps over sizes",
        "",
        f"By `python -m tests.campaign.sweeps{' --proofs' if proofs else ''}`: each on {threads[0]} to {threads[-1]} "
        "threads, by the engine's own tiling, held to the interpreter in float64, twice with the same bits.",
        "",
        "| sweep | configurations | programs | comparisons | farthest off | departures |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in sweeps:
        what = (SWEEPS[each.name].__doc__ or "").partition("\n")[0].rstrip(".")
        lines.append(
            f"| {what} | {each.points:,} | {each.runs:,} | {each.comparisons:,} | {each.largest:.0e} | "
            f"{len(each.departures)} |"
        )
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] | None = None) -> int:
    """Runs the sweeps; 1 if anything departs."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.sweeps", description=__doc__)
    parser.add_argument("--only", choices=SWEEPS, help="that sweep alone")
    parser.add_argument("--threads", default=",".join(map(str, THREADS)), help="how many (default 1 to 8)")
    parser.add_argument("--proofs", action="store_true", help="prove each program, too")
    parser.add_argument("--markdown", type=Path, help="where to write the section of the page")
    said = parser.parse_args(given)
    threads = [int(count) for count in said.threads.split(",")]
    console, found = Console(), []
    began = time.monotonic()
    with poisoned(), Progress(console=console) as progress:
        for name in [said.only] if said.only else SWEEPS:
            swept = Swept(name)
            for point in progress.track(list(SWEEPS[name]()), description=name):
                before = len(swept.departures)
                hold(point, threads, swept, said.proofs)
                for each in swept.departures[before:]:
                    console.print(each, markup=False, highlight=False)
            found.append(swept)
    text = report(found, threads, said.proofs)
    console.print(f"{text}\nin {(time.monotonic() - began) / 60:.0f} minutes", markup=False, highlight=False)
    if said.markdown is not None:
        said.markdown.write_text(text, encoding="utf-8")
    return int(any(each.departures for each in found))


if __name__ == "__main__":
    sys.exit(main())
