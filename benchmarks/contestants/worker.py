"""A contestant's process: it answers one request a line, in JSON, until its input ends.

    {"do": "prepare", "problem": {"size": "small", "what": "gradients"}}    what has to agree
    {"do": "step", "count": 3}                          seconds a step
    {"do": "rate"}                                      GFLOP/s
    {"do": "memory"}                                    bytes, of the steps so far, or null where it cannot be read

The answer is {"result": …}, or {"error": "…"} for a contestant that cannot take part.

Memory is the most that the process held during steps, parameters and what compiling left behind included, less what
it held with its libraries loaded and nothing prepared. On a GPU it is what the device had free before anything was
prepared, less what it has free after steps: libraries keep what they have once taken.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS, ON_GPU
from graphir.cli.core import pick_core

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Worker:
    """One contestant, and the problem that it is at."""

    def __init__(self, name: str, on_gpu: bool = False) -> None:
        # As the command line does, and before NumPy is loaded by whatever comes next.
        pick_core()
        module, self.options = (ON_GPU if on_gpu else CONTESTANTS)[name]
        self.module, self.on_gpu = import_module(f"benchmarks.contestants.{module}"), on_gpu
        self.baseline: int | None = None

    def prepare(self, problem: dict[str, Any]) -> dict[str, float]:
        """Builds the step and checks it; its first run is behind it then."""
        from benchmarks.contestants.problem import Problem

        wanted = Problem(**problem)
        # Copied, because the zeros that NumPy hands out are not in memory before they are written.
        parameters = {name: array.copy() for name, array in wanted.parameters().items()}
        self.module.rate()  # what a library makes on first use belongs to the baseline, as the library does
        _give_back()
        if self.on_gpu:
            self.baseline = self.module.free_memory()
        resident = None if self.on_gpu else _resident("VmRSS")
        if resident is not None:
            self.baseline = resident - sum(array.nbytes for array in parameters.values())
        self.work, check = self.module.prepare(wanted, parameters, wanted.batch(), **self.options)
        del parameters
        found: dict[str, float] = check()
        self.work()
        self.finish()
        _give_back()
        if resident is not None:
            _CLEAR.write_text("5")  # the peak starts anew
        return found

    def step(self, count: int) -> float:
        """Seconds a step, over some in a row."""
        start = time.perf_counter()
        for _ in range(count):
            self.work()
        self.finish()
        return (time.perf_counter() - start) / count

    def finish(self) -> None:
        """Waits for what steps have begun: on the processor, nothing."""
        if self.on_gpu:
            self.module.finish()

    def rate(self) -> float:
        return float(self.module.rate())

    def memory(self) -> int | None:
        if self.on_gpu:
            assert self.baseline is not None
            return self.baseline - int(self.module.free_memory())
        peak = _resident("VmHWM")
        return None if self.baseline is None or peak is None else peak - self.baseline


def _resident(field: str) -> int | None:
    """Bytes, as Linux counts them; None where it does not, or does not let the peak start anew."""
    if not _STATUS.exists() or not os.access(_CLEAR, os.W_OK):
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def _give_back() -> None:
    """Returns to the system what was freed: else it would count as held, and be used again without counting."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def main() -> None:
    # Answers go where stdout went; whatever a library prints goes to stderr instead.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(sys.argv[1], on_gpu="--gpu" in sys.argv[2:])
            answer = {"result": getattr(worker, request.pop("do"))(**request)}
        except Exception as error:  # whatever it is: one contestant less, and the others go on
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
