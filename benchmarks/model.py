"""A real model's speed beside its floors: a token beside one read of the weights, a step beside its products.

    python -m benchmarks.model [--model FOLDER] [--pytorch PYTHON] [--threads 1] [--rounds 40] [--batch 1]
                               [--sequence 128] [--parts decode,step,open]

Without a folder the model has SmolLM2-135M's sizes and random weights, on which its speed does not depend. All take
turns, round by round; ratios are taken within a round, and of the least times. PYTHON is an interpreter that has torch
and transformers; it decodes the same folder with a cache, and has to choose the same tokens.

decode   a token, with a cache of 128 rows, beside the sum of all numbers that it reads, by as many threads
step     the loss, and the loss with all gradients, beside the products of the graph alone; of grouped heads the scores
         are multiplied as plain heads' are
open     opening, compiling and the first token in a new process, without the interpreter's own start; run it twice for
         kernels that are compiled already
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import graphir as gi
from benchmarks.contestants.floor import Products
from graphir.backends.blas import single_threaded_blas
from graphir.generation.decoder import Decoder, cached_graph
from graphir.hub import open_model
from graphir.ir.graph import Graph
from graphir.models import Blueprint, blueprint
from graphir.passes import as_stored, autodiff, dce

Contestants = dict[str, Callable[[], float | None]]
PROMPT = tuple(range(1, 41))
KERNELS = ("numpy", "numba")


class Model:
    """What is measured: a folder's model, or one of SmolLM2's sizes with random weights."""

    def __init__(self, folder: str | None) -> None:
        self.files = None if folder is None else open_model(folder)
        self.blueprint: Blueprint = blueprint("smollm2-135m") if self.files is None else self.files.blueprint

    def held(self, graph: Graph, wide: bool = True) -> tuple[Graph, dict[str, Any]]:
        """The graph as its weights lie in files, wide or as they are stored, and the weights."""
        if self.files is not None:
            graph = as_stored(graph, self.files.lies("float32" if wide else None))
            return graph, self.files.arrays_of(graph)
        turned = {value.name: ("float32", value.local_name.startswith("W_")) for value in graph.parameters}
        graph = as_stored(graph, turned)
        # Of what a run brings any sizes will do: parameters have none of these dims.
        return graph, dict(gi.initialize(graph, self.blueprint.bind(graph, B=1, S=1, S_k=1)))


def take_turns(contestants: Contestants, rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round; a contestant that tells its own is not timed from outside."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 3):
        for name, run in contestants.items():
            begun = time.perf_counter()
            told = run()
            seconds = time.perf_counter() - begun if told is None else told
            if number >= 3:
                found[name].append(seconds)
    return found


def show(title: str, seconds: Mapping[str, Sequence[float]], floor: str) -> dict[str, Any]:
    """Prints least and median times, and what they are of the floor's; the same as data."""
    data = {}
    for name, each in seconds.items():
        ratios = [one / other for one, other in zip(each, seconds[floor], strict=True)]
        least = min(each) / min(seconds[floor])
        data[name] = {"least_ms": 1e3 * min(each), "median_ms": 1e3 * median(each), "of_floor": least}
        print(
            f"{title:10} {name:16} least {1e3 * min(each):8.2f} ms, median {1e3 * median(each):8.2f} ms; "
            f"{least:.3f} of the {floor} by least times, {median(ratios):.3f} by the median of rounds"
        )
    return data


def decode(model: Model, threads: int, rounds: int, pytorch: str | None, folder: str | None) -> dict[str, Any]:
    """A token's time beside one read of the weights."""
    contestants: Contestants = {}
    tokens: dict[str, list[int]] = {}
    forms = [("numpy", True), ("numba", True)]
    forms += [("numba, stored", False)] if model.files is not None and model.files.weights.dtype == "bfloat16" else []
    pool = ThreadPoolExecutor(threads)

    def reader(arrays: Mapping[str, Any]) -> Callable[[], None]:
        flat = [each.reshape(-1).view(np.uint8) for each in arrays.values() if each.nbytes % 4 == 0]
        rows = [each.view(np.float32) for each in flat]
        parts = [[np.array_split(each, threads)[i] for each in rows] for i in range(threads)]

        def read() -> None:
            list(pool.map(lambda part: [each.sum() for each in part], parts))

        return read

    for name, wide in forms:
        graph, arrays = model.held(cached_graph(model.blueprint), wide)
        decoder = Decoder(
            model.blueprint, arrays, graph=graph, threads=threads, kernels="numpy" if name == "numpy" else "numba"
        )
        last = [int(decoder.begin([PROMPT], rounds + 4)[0].argmax())]
        tokens[name] = last

        def step(decoder: Decoder = decoder, chosen: list[int] = last) -> None:
            chosen.append(int(decoder.step(chosen[-1:])[0].argmax()))

        contestants[name] = step
        contestants.setdefault("read" if wide else "read, stored", reader(arrays))
    process = None
    if pytorch is not None and folder is not None:
        command = [pytorch, "-m", "benchmarks.contestants.torch_decode", folder, str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        tokens["pytorch"] = []

        def ask(line: str = "") -> float:
            assert process is not None
            assert process.stdin is not None
            assert process.stdout is not None
            print(line, file=process.stdin, flush=True)
            seconds, id = process.stdout.readline().split()
            tokens["pytorch"].append(int(id))
            return float(seconds)

        ask(" ".join(map(str, PROMPT)))
        contestants["pytorch"] = ask
    found = take_turns(contestants, rounds)
    if process is not None:
        process.communicate()
    if len({tuple(each) for each in tokens.values()}) > 1:
        raise SystemExit(f"contestants do not choose the same tokens, so their times mean nothing: {tokens}")
    return show("a token", found, "read")


def steps(model: Model, threads: int, rounds: int, batch: int, sequence: int) -> dict[str, Any]:
    """The loss, and the loss with all gradients, beside the graph's products."""
    data = {}
    pool = ThreadPoolExecutor(threads)
    plain = model.blueprint.but(N_KV=model.blueprint.sizes["N_H"])
    for what in ("forward", "step"):
        graphs = [each.graph(decode=None) for each in (model.blueprint, plain)]
        graphs = graphs if what == "forward" else [autodiff(each) for each in graphs]
        mine, scores = (
            Products(dce(graph), each.bind(graph, B=batch, S=sequence), threads, scores=of_scores)
            for graph, each, of_scores in zip(graphs, (model.blueprint, plain), (False, True), strict=True)
        )
        calls = [[*one, *other] for one, other in zip(mine.calls, scores.calls, strict=True)]

        def multiply(part: list[Any]) -> None:
            for left, right, out in part:
                np.matmul(left, right, out=out)

        def floor(calls: list[list[Any]] = calls) -> None:
            with single_threaded_blas():
                list(pool.map(multiply, calls))

        contestants: Contestants = {"floor": floor}
        graph, sizes = graphs[0], model.blueprint.bind(graphs[0], B=batch, S=sequence)
        arrays = gi.initialize(graph, sizes)
        T = np.random.default_rng(0).integers(0, model.blueprint.sizes["V"], (batch, sequence))
        places = np.broadcast_to(np.arange(sequence), T.shape)
        inputs = {"T": T, "Y": np.roll(T, -1, 1), "positions": places}
        for kernels in KERNELS:
            run = gi.compile(graph, sizes, threads=threads, kernels=kernels)
            contestants[kernels] = partial(_run, run, arrays, inputs)
        data[what] = show(what, take_turns(contestants, rounds), "floor")
    return data


def _run(executable: Callable[..., Any], *arguments: Mapping[str, Any]) -> None:
    executable(*arguments)


def opened(folder: str, threads: int, rounds: int) -> dict[str, Any]:
    """From nothing to the first token, in processes of their own."""
    code = (
        "import sys, time; begun = time.perf_counter()\n"
        "from graphir.cli.core import pick_core; pick_core()\n"
        "from benchmarks.model import PROMPT, Model, Decoder, cached_graph\n"
        "model = Model(sys.argv[1]); graph, arrays = model.held(cached_graph(model.blueprint), sys.argv[2] == 'wide')\n"
        "decoder = Decoder(model.blueprint, arrays, graph=graph, threads=int(sys.argv[4]), kernels=sys.argv[3])\n"
        "decoder.begin([PROMPT], 64); print(time.perf_counter() - begun)\n"
    )

    def first(kernels: str, held: str) -> float:
        command = [sys.executable, "-c", code, folder, held, kernels, str(threads)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    forms = {f"{kernels}, {held}": (kernels, held) for kernels in KERNELS for held in ("wide", "stored")}
    contestants: Contestants = {name: partial(first, *form) for name, form in forms.items()}
    return show("first", take_turns(contestants, rounds), next(iter(forms)))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--pytorch")
    parser.add_argument("--parts", default="decode,step,open")
    parser.add_argument("--json", action="store_true")
    for name, default in {"threads": 1, "rounds": 40, "batch": 1, "sequence": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    said = parser.parse_args()
    model, parts, found = Model(said.model), said.parts.split(","), dict[str, Any]()
    if "decode" in parts:
        found["decode"] = decode(model, said.threads, said.rounds, said.pytorch, said.model)
    if "step" in parts:
        found |= steps(model, said.threads, said.rounds, said.batch, said.sequence)
    if "open" in parts and said.model is not None:
        found["open"] = opened(said.model, said.threads, 3)
    if said.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    from graphir.cli.core import pick_core

    pick_core()
    main()
