"""A campaign from seed to seed: each case in all its ways, departures shrunk and kept."""

from __future__ import annotations

import faulthandler
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import graphir as gi
from tests.campaign.case import Case, read_text
from tests.campaign.draw import draw
from tests.campaign.report import Tally
from tests.campaign.shrink import Found, shrink
from tests.campaign.trial import Departure, Outcome, UnfitError, attempt, refer
from tests.campaign.ways import DEVICES, Way, draw_ways, read_way
from tests.support.poison import poisoned

#: One graph in so many is run with Numba's kernels, each of which is compiled for about a second.
NUMBA_ONE_IN = 40
#: One in so many on XLA, which takes about half a second to compile a graph.
XLA_ONE_IN = 20
#: One differentiated graph in so many is held to finite differences.
DIFFERENCES_ONE_IN = 10
#: After so many seconds without an end, a graph hangs.
PATIENCE = 300
_STEP = 1e-6


@dataclass
class Campaign:
    """What is run: cases from `seed` on, as many as are asked for, or until time is up.

    only     of that kind alone
    numba    whether Numba's kernels are among the executors
    xla      whether XLA is
    proofs   whether some programs are proved
    shrinks  how many departures are shrunk; more are counted only
    out      where departures are written to
    """

    seed: int = 0
    only: str | None = None
    numba: bool = True
    xla: bool = True
    proofs: bool = True
    shrinks: int = 20
    out: Path | None = None
    tally: Tally = field(default_factory=Tally)
    found: list[Found] = field(default_factory=list)
    _told: set[tuple[str, ...]] = field(default_factory=set)

    def run(
        self,
        graphs: int | None = None,
        seconds: float | None = None,
        told: Callable[[Found], None] = lambda found: None,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs so many graphs, or for so long; `told` hears of departures, one of each `key`; `step` of each graph."""
        began, number = time.monotonic(), 0
        with poisoned(), _watched() as alive:
            while graphs is None or number < graphs:
                if seconds is not None and time.monotonic() - began > seconds:
                    return
                alive()
                self._note(self.seed + number)
                for found in self.try_seed(self.seed + number):
                    if found.key not in self._told:
                        self._told.add(found.key)
                        told(found)
                number += 1
                step()

    def try_seed(self, seed: int) -> Iterator[Found]:
        """The departures of one seed's case."""
        case = draw(seed, self.only)
        rng = random.Random(f"ways {seed}")
        try:
            known = refer(case)
        except UnfitError:
            self.tally.unfit += 1
            return
        self.tally.add_case(case)
        if case.loss is not None and rng.randrange(DIFFERENCES_ONE_IN) == 0:
            departure = differences(case)
            self.tally.differences += 1
            if departure is not None:
                yield self._keep(Found(case, Way("optimised"), departure), lambda case, way: differences(case))
        numba = self.numba and rng.randrange(NUMBA_ONE_IN) == 0
        # By a generator of its own: whether there is an XLA changes nothing for the others.
        xla = self.xla and has_xla() and random.Random(f"xla {seed}").randrange(XLA_ONE_IN) == 0
        for way in draw_ways(rng, case, numba, xla):
            way = replace(way, check=way.check and self.proofs)
            try:
                outcome = attempt(case, way, known)
            except UnfitError:
                continue
            self.tally.add_trial(case, way, outcome)
            if outcome.departure is not None:
                yield self._keep(Found(case, way, outcome.departure), None)

    def _keep(self, found: Found, run: Callable[[Case, Way], Departure | None] | None) -> Found:
        if len(self.found) < self.shrinks:
            found = shrink(found, run)
        self.found.append(found)
        if self.out is not None and found.key not in self._told:
            path = self.out / f"{len(self.found):04d}-seed{found.case.seed}.txt"
            path.write_text(written(found), encoding="utf-8")
        return found

    def _note(self, seed: int) -> None:
        """So that a graph that hangs or kills the process is known."""
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "seed").write_text(f"{seed}\n", encoding="utf-8")


@cache
def has_xla() -> bool:
    """Whether JAX is installed; then it has devices for ranks, unless it has begun without."""
    if find_spec("jax") is None:
        return False
    import jax

    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", DEVICES)
    return True


@contextmanager
def _watched() -> Iterator[Callable[[], None]]:
    """Ends the process, and says where each thread is, where what it gives is not called for too long."""
    try:
        yield lambda: faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__ or 2)
    finally:
        faulthandler.cancel_dump_traceback_later()


def written(found: Found) -> str:
    """A departure as text that `gi.parse` and `replay` read."""
    head = f"# {found.departure}\n# python -m tests.campaign --replay THIS\n"
    return head + found.case.to_text(way=found.way.as_dict())


def replay(text: str) -> Outcome:
    """Runs once more what `written` wrote."""
    case, said = read_text(text)
    with poisoned():
        return attempt(case, read_way(said["way"]))


def differences(case: Case) -> Departure | None:
    """Whether a gradient, along one random direction of all that has one, is what the loss does.

    In float64 alone, and without the factor of a loss scale. A central difference over 10⁻⁶ is right to about 10⁻⁹ of
    the loss's size; a kink of relu in between is what the smaller step is tried for.
    """
    if case.loss is None or case.overflows:
        return None
    program = case.program
    floats = [value for value in program.values.values() if value.type.is_float]
    if any(value.dtype != "float64" for value in floats):
        return None
    held = case.arrays()
    names = [_gradient(name) for name in case.wrt]
    run = gi.compile(program, case.bound, backend="reference", fetch=[case.loss, *names])
    made = run(held)
    by = case.scale or 1.0
    rng = np.random.default_rng(case.seed)
    along = {name: rng.standard_normal(held[name].shape) for name in case.wrt}
    slope = sum(float((made[d] * along[name]).sum()) / by for d, name in zip(names, case.wrt, strict=True))
    size = sum(float(np.abs(made[d] * along[name]).sum()) / by for d, name in zip(names, case.wrt, strict=True))
    off = np.inf
    for step in (_STEP, _STEP / 8):
        ends = [
            float(run({**held, **{name: held[name] + sign * step * along[name] for name in case.wrt}})[case.loss])
            for sign in (1, -1)
        ]
        wide = max(size, abs(slope), 1e-3 * max(map(abs, ends)), 1e-6)
        off = min(off, abs((ends[0] - ends[1]) / (2 * step) - slope) / wide)
    return None if off <= 1e-4 else Departure("another slope", case.loss, off)


def _gradient(name: str) -> str:
    """What autodiff calls the gradient of a parameter: `layer0/mlp/dW` of `layer0/mlp/W`."""
    block, slash, own = name.rpartition("/")
    return f"{block}{slash}d{own}"


__all__ = ["Campaign", "differences", "replay", "written"]
