"""Executables, over and over: compiled, run, called from several threads, forked, dropped; and training steps, soaked.

What must stay as it is: the number of threads, the objects that Python holds, the process's memory. What is remembered
from graph to graph has bounds, and would take tens of thousands of graphs to reach them: it is forgotten before memory
is measured.

    python -m tests.attack.cycles 10000             # so many graphs, then twice as many steps
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphir as gi
from graphir.backends.executable import Executable
from graphir.errors import InputError
from graphir.passes import Optimizer, autodiff, optimize
from tests.attack.outcome import HangError, LossError
from tests.campaign.case import Case
from tests.campaign.draw import draw

#: After so many graphs, and steps, all is loaded and allocated that is used by all.
WARM, WARM_STEPS = 500, 500
#: Windows of so many trials, of each of which the least memory counts: what a trial needs for a while is no growth.
WINDOW = 250
#: How much more a window may have than the first after the warm-up: graphs are drawn at random, and some are large.
GROWTH, STEP_GROWTH = 0.05, 0.01
#: Python asks the system for so much at once, now and then one more: of 20,000 steps that is 50 bytes each.
_ARENA = 1 << 20
#: Seconds for what has to end.
_LIMIT = 60
_SIZES = {"B": 2, "S": 8, "D": 16, "N_H": 2, "D_ff": 32, "V": 32}

Arrays = dict[str, NDArray[Any]]


def cycles(seed: int) -> Iterator[tuple[str, str]]:
    """Trials without end: what was done, and what came of it. LossError where anything grows."""
    steps, flat = soak(seed), Flat(WARM, GROWTH)
    yield next(steps)
    before = set(threading.enumerate())
    for number in count():
        rng = random.Random(f"{seed} {number}")
        way = rng.choices(("run", "threads", "fork", "fail", "cycle"), (12, 2, 1, 1, 1))[0]
        yield way, _try_out(way, draw(seed + number), rng)
        if way == "cycle":
            gc.collect()
        _require_threads(before)
        flat.note(f"after {number + 1} graphs from seed {seed}")
        for _ in range(2):
            yield next(steps)


def soak(seed: int) -> Iterator[tuple[str, str]]:
    """Steps of one training without end, each of which gives the state away and takes the new one."""
    model = gi.models.transformer(layers=1, dropout=0.1)
    graph = optimize(autodiff(model), Optimizer(learning_rate=1e-3, clip=1.0))
    step = gi.compile(graph, _SIZES, donate=True, threads=2)
    state: Mapping[str, Any] = gi.initialize(graph, _SIZES, seed)
    for number in count():
        T = np.random.default_rng([seed, number]).integers(0, _SIZES["V"], (_SIZES["B"], _SIZES["S"]))
        result = step(state, {"T": T, "Y": T, "seed": seed, "step": number})
        state = result.updated()
        if not np.isfinite(result["L"]):
            raise LossError("cycles", f"the loss of step {number} from seed {seed} is {result['L']}")
        yield "step", "finite"


class Flat:
    """Memory that must not grow once it is warm. Each window's least is held to that of the first."""

    def __init__(self, warm: int, growth: float) -> None:
        self.warm, self.growth = warm, growth
        #: For each window, Python's blocks and the process's resident bytes.
        self.least: list[tuple[int, int]] = []
        self._window: list[tuple[int, int]] = []
        self._count = 0

    def note(self, when: str) -> None:
        """After each trial. LossError where a window has grown, `when`."""
        self._count += 1
        if self._count <= self.warm:
            return
        self._window.append((sys.getallocatedblocks(), resident()))
        if len(self._window) < WINDOW:
            return
        _forget()
        gc.collect()
        _give_back()
        self._window.append((sys.getallocatedblocks(), resident()))
        blocks, sizes = zip(*self._window, strict=True)
        self.least.append((min(blocks), min(sizes)))
        self._window.clear()
        kinds = ("blocks", 0), ("resident bytes", _ARENA)
        for (name, spare), first, last in zip(kinds, self.least[0], self.least[-1], strict=True):
            if last > first + max(first * self.growth, spare):
                raise LossError("cycles", f"{when}, Python holds {last:,} {name}, and had {first:,}")


def _forget() -> None:
    """Empties all that graphir remembers."""
    for each in gc.get_objects():
        # Patterns of names are fnmatch's to remember: some thirty thousand of them.
        if type(each) is functools._lru_cache_wrapper and str(each.__module__).startswith(("graphir.", "fnmatch")):
            each.cache_clear()


def _give_back() -> None:
    """What the C library has kept of freed memory goes back to the system, where it can: that is not held by us."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """The bytes of this process that are in memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _try_out(way: str, case: Case, rng: random.Random) -> str:
    """What came of a case: compiled, run in that way, and dropped."""
    graph = case.sharded if case.mesh else case.program
    backend = "reference" if rng.random() < 0.1 else "numpy"
    options: dict[str, Any] = {"backend": backend}
    if backend == "numpy":
        options |= {"threads": rng.choice((1, 2, 3)), "check": rng.random() < 0.1}
    run = gi.compile(graph, case.bound_of(graph), **options)
    first = _results(run, case.arrays())
    if way == "threads":
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda again: _results(run, case.arrays(again)), [0, 1, 0, 1, 0]))
        same = all(_alike(first, each) for each in made[::2]) and _alike(made[1], made[3])
    elif way == "fork" and hasattr(os, "fork"):
        same = _in_child(lambda: _alike(first, _results(run, case.arrays())))
    elif way == "fail":
        same = _fails(run, case) and _alike(first, _results(run, case.arrays()))
    else:
        same = _alike(first, _results(run, case.arrays()))
    if way == "cycle":
        held: list[Any] = [run]
        held.append(held)
    if not same:
        raise LossError("cycles", f"another result by {way} on {backend}: {options}, {case.to_text()}")
    return f"right on {backend}"


def _results(run: Executable, arrays: Arrays) -> Arrays:
    with np.errstate(all="ignore"):
        return dict(run(arrays))


def _alike(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one
    )


def _fails(run: Executable, case: Case) -> bool:
    """Whether a run of what it cannot take is refused."""
    arrays: dict[str, Any] = dict(case.arrays())
    arrays[next(iter(arrays))] = np.zeros((1,) * 7, "complex64")
    try:
        run(arrays)
    except InputError:
        return True
    return False


def _in_child(work: Any) -> bool:
    """What `work` returns in a forked child."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = int(not work())
        finally:
            os._exit(code)
    end = time.monotonic() + _LIMIT
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise HangError("cycles", f"a forked child has not ended within {_LIMIT} s")
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(found[1]) == 0


def _require_threads(before: set[threading.Thread]) -> None:
    """LossError unless the threads of what has ended end, too."""
    for each in set(threading.enumerate()) - before:
        if each.name.startswith("graphir-"):
            each.join(_LIMIT)
            if each.is_alive():
                raise LossError("cycles", f"{each.name} has not ended with its executable")


def main(graphs: int) -> None:
    """So many graphs, then twice as many steps by themselves."""
    began, trials = time.monotonic(), cycles(0)
    for number in range(3 * graphs):
        next(trials)
        if number % 3000 == 0:
            print(_figures(number // 3, began), flush=True)
    trials.close()  # type: ignore[attr-defined]
    print(_figures(graphs, began))
    steps, flat = soak(0), Flat(WARM_STEPS, STEP_GROWTH)
    for number in range(2 * graphs):
        next(steps)
        flat.note(f"after {number + 1} steps")
    blocks, held = flat.least[-1]
    print(f"{2 * graphs:,} steps: {blocks:,} blocks, {held / 1e6:.1f} MB; at first {flat.least[0][0]:,} blocks")


def _figures(graphs: int, began: float) -> str:
    return (
        f"{graphs:6,} graphs, {time.monotonic() - began:6.0f} s: {threading.active_count()} threads, "
        f"{sys.getallocatedblocks():,} blocks, {resident() / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
