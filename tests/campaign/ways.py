"""A way to run a case: which executor, how many threads, how its tasks are cut, and what is left out of the passes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any
from unittest.mock import patch

import graphir as gi
from graphir.backends import Executable
from graphir.backends.compiled.tiles import Tiling
from graphir.backends.executable import Watch
from graphir.passes import LEVELS, PIPELINE, run_pipeline, unfuse
from tests.campaign.apart import Apart
from tests.campaign.case import Case
from tests.support.serial import serial
from tests.support.tilings import DrawnTiling, drawn

#: Executors, as the closing table has them.
EXECUTORS = ("compiled", "numba", "optimised", "simulated ranks", "compiled ranks", "ranks apart", "xla", "xla ranks")
#: How many devices XLA has, virtual ones, for the ranks of a mesh.
DEVICES = 8


@dataclass(frozen=True)
class Way:
    """How a case is run and what is fetched; `fetch` None is the graph's own outputs, `tiling` None the engine's own.

    `optimised` and `simulated ranks` are graphs that passes have changed, run by the reference interpreter: what
    departs there is the passes' fault. The others are compiled, and with `check` proved; with `serial` their threads
    run one after the other, and what is dead between two of their meetings is poisoned. `ranks apart` are compiled each
    by itself, and `bucket` is how many bytes travel together between them. `xla` is an engine that is not graphir's,
    and `xla ranks` are devices of it. With `watch` the third run is one that is
    watched, node by node.
    """

    executor: str = "compiled"
    threads: int = 1
    tiling: Tiling | None = None
    recompute: str | None = None
    without: tuple[str, ...] = ()
    fetch: tuple[str, ...] | None = None
    donate: bool = False
    share_replicas: bool = False
    algorithm: str = "ring"
    on_gpu: bool = False
    check: bool = False
    serial: bool = False
    bucket: int | None = None
    watch: bool = False

    @property
    def is_compiled(self) -> bool:
        return self.executor not in ("optimised", "simulated ranks", "xla", "xla ranks")

    @property
    def is_sharded(self) -> bool:
        return "ranks" in self.executor

    def compile(self, case: Case) -> Executable | Apart:
        """The executable; to be compiled and first run under `applied`."""
        if self.executor == "optimised":
            return _optimised(case, self)
        if self.executor.startswith("xla"):
            graph = case.sharded if self.is_sharded else case.program
            options = {"fetch": self.fetch, "recompute": self.recompute, "donate": self.donate}
            return gi.compile(graph, case.bound_of(graph), backend="xla", **options)
        options: dict[str, Any] = {"fetch": self.fetch, "recompute": self.recompute, "algorithm": self.algorithm}
        if self.is_compiled:
            options |= {"threads": self.threads, "without": self.without, "donate": self.donate}
            options |= {"share_replicas": self.share_replicas, "check": self.check, "tiling": self.tiling}
            if self.executor == "ranks apart":  # whose communicator takes the place of MPI's
                options |= {"ranks": "mpi", "bucket": self.bucket}
            if self.executor == "numba":
                options["kernels"] = "numba"
        else:
            options["backend"] = "reference"
        graph = case.sharded if self.is_sharded else case.program
        make = partial(gi.compile, graph, case.bound_of(graph), **options)
        return Apart(graph.mesh, make, blocks=self.donate) if self.executor == "ranks apart" else make()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While it lasts, threads run as `serial` says, and Numba's kernels are made for the smallest run."""
        with ExitStack() as stack:
            if self.serial:
                stack.enter_context(serial(backwards=self.threads % 2 == 0))
            if self.executor == "numba":
                stack.enter_context(patch("graphir.backends.numpy.fast.kernels.LEAST", 0))
            yield

    def as_dict(self) -> dict[str, Any]:
        """Plain data, of what is not as it is unless said."""
        plain = asdict(self)
        return {each.name: plain[each.name] for each in fields(self) if getattr(self, each.name) != each.default}


class _Renamed(Executable):
    """The executable of an optimised graph, whose results have the names of the graph that it was made from."""

    def __init__(self, made: Executable, names: Sequence[str]) -> None:
        vars(self).update(vars(made))
        self._names = names

    def __call__(self, *arguments: Mapping[str, Any], watch: Watch | None = None) -> Any:
        run = super().__call__(*arguments, watch=watch)
        return dict(zip(self._names, (run[name] for name in run), strict=True))


def _optimised(case: Case, way: Way) -> Executable:
    """The graph that would be compiled, its fused nodes taken apart again, for the interpreter."""
    level = "masks" if way.recompute is None else way.recompute
    made = unfuse(gi.verify(run_pipeline(case.program, level, way.without, on_gpu=way.on_gpu)))
    run = gi.compile(made, case.bound_of(made), backend="reference", recompute="nothing")
    return _Renamed(run, [value.name for value in case.program.outputs])


def read_way(plain: Mapping[str, Any]) -> Way:
    """The way that `as_dict` wrote."""
    given = _with_tuples(plain)
    if given.get("tiling") is not None:
        kind = DrawnTiling if "seed" in given["tiling"] else Tiling
        given["tiling"] = kind(**_with_tuples(given["tiling"]))
    return Way(**given)


def _with_tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}


# -- drawing ----------------------------------------------------------------------------------------------


def draw_tiling(rng: random.Random) -> Tiling:
    """A tiling from single elements to everything whole: each task's cut by itself, or each bound of the engine's.

    Bounds are drawn evenly over powers of two; `small` is 0 in half of the cases, so that the least task has its
    threads.
    """
    if rng.random() < 0.6:
        return drawn(rng.randrange(1 << 30))
    least = rng.choice((1, 1, 2, 3, 64))
    return Tiling(
        bytes=1 << rng.randint(0, 12) if rng.random() < 0.8 else 1 << 22,
        small=0 if rng.random() < 0.5 else 1 << rng.randint(0, 16),
        causal=(least, least + rng.choice((0, 1, 2, 5, 64))),
        scores=rng.choice((1, 3, 8)),
        uneven=rng.choice((1.0, 1.1, 1.5, 4.0)),
        whole=rng.random() < 0.2,
    )


def draw_ways(rng: random.Random, case: Case, numba: bool = False, xla: bool = False) -> list[Way]:
    """How a case is run: compiled twice or thrice, and in whatever other ways it has; `numba` adds its kernels.

    `xla` adds that engine, on one device and, where there are ranks, on one for each.
    """
    found = [_draw_compiled(rng, case, "compiled") for _ in range(rng.choice((2, 2, 3)))]
    if numba:
        found.append(_draw_compiled(rng, case, "numba"))
    if rng.random() < 0.3:
        left_out = tuple(rng.sample(PIPELINE, rng.choice((0, 0, 1, 2))))
        found.append(Way("optimised", recompute=rng.choice(LEVELS), without=left_out, on_gpu=rng.random() < 0.5))
    if case.mesh:
        found.append(Way("simulated ranks", algorithm=rng.choice(("ring", "direct", "naive"))))
        found.append(_draw_compiled(rng, case, "compiled ranks"))
        found.append(_draw_compiled(rng, case, "ranks apart"))
    if xla:
        fetch = _draw_fetch(rng, case) if rng.random() < 0.35 else None
        donate = bool(case.program.updates) and rng.random() < 0.4
        found.append(Way("xla", recompute=rng.choice((None, *LEVELS)), fetch=fetch, donate=donate))
        if case.mesh and math.prod(case.mesh.values()) <= DEVICES:
            found.append(Way("xla ranks", donate=donate))
    return found


def _draw_fetch(rng: random.Random, case: Case) -> tuple[str, ...]:
    """All values or some; or one alone of what has several results: a mask, a row's statistics, a norm."""
    names = list(case.program.values)
    several = [value.name for node in case.program.nodes if len(node.outputs) > 1 for value in node.outputs]
    if several and rng.random() < 0.3:
        return (rng.choice(several),)
    return tuple(rng.sample(names, len(names) if rng.random() < 0.4 else rng.randint(1, len(names))))


def _draw_compiled(rng: random.Random, case: Case, executor: str) -> Way:
    sharded = executor.endswith(("ranks", "apart"))
    fetch = None
    if rng.random() < 0.35 and not sharded:
        fetch = _draw_fetch(rng, case)
    return Way(
        executor,
        threads=rng.choice((1, 1, 2, 2, 3) if executor == "ranks apart" else (1, 1, 2, 2, 3, 4, 5, 8)),
        tiling=None if rng.random() < 0.1 else draw_tiling(rng),
        recompute=rng.choice((None, *LEVELS)),
        without=tuple(rng.sample(PIPELINE, rng.choice((0, 0, 1, 1, 2)))),
        fetch=fetch,
        donate=bool(case.program.updates) and rng.random() < 0.4,
        share_replicas=executor == "compiled ranks" and rng.random() < 0.3,
        algorithm=rng.choice(("ring", "direct", "naive")) if executor == "compiled ranks" else "ring",
        check=rng.random() < 0.7,
        serial=rng.random() < 0.3,
        bucket=rng.choice((0, 1, 64, 1024, None, None)) if executor == "ranks apart" else None,
        watch=not sharded and rng.random() < 0.1,
    )
