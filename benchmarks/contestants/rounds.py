"""Rounds: each contestant in turn does some steps, and only rounds count in which nothing else ran.

Machines are shared, and two threads are slowed to a fraction by any third that wants a core. So what is compared are
ratios within a round, and a round is dropped if at anyone's turn processes that do not take part used more than
`TOLERANCE` of the processors' time: what Linux counts as busy, less what the contestant at its turn and this process
used. A contestant that keeps a core busy when it is not its turn counts as another process then.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants.problem import Problem

ROOT = Path(__file__).parents[2]

#: Seconds of steps at a turn, at least one step: long against the 10 ms in which Linux counts.
TURN = 0.25
#: Seconds between turns: OpenBLAS's threads stay awake for about a tenth of one after their last product.
SETTLE = 0.15
#: The part of the processors' time that others may use, and the ticks that counting may be wrong by.
TOLERANCE, BLUR = 0.03, 2
#: How many rounds are tried for each that is wanted, on a machine that is not quiet.
PATIENCE = 3

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class UnableError(Exception):
    """A contestant cannot take part: a library is missing, or memory is."""


class Contestant:
    """A worker process, from outside."""

    def __init__(self, name: str, on_gpu: bool = False) -> None:
        self.name, self.steps = name, 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contestants.worker", name, *(["--gpu"] if on_gpu else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **details: Any) -> Any:
        """The worker's answer; UnableError if it has none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UnableError(f"its process ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise UnableError(answer["error"])
        return answer["result"]

    def prepare(self, problem: Problem) -> dict[str, float]:
        """Has the problem built, run once and timed once; returns what has to agree."""
        found: dict[str, float] = self.ask("prepare", problem={**vars(problem)})
        self.steps = max(1, round(TURN / self.ask("step", count=1)))
        return found

    def turn(self) -> tuple[float, bool]:
        """Seconds a step, and whether it was quiet: hardly any processor time went to others."""
        start, busy, own = time.perf_counter(), busy_time(), self._used()
        seconds: float = self.ask("step", count=self.steps)
        time.sleep(SETTLE)
        others = (busy_time() - busy) - (self._used() - own)
        available = (time.perf_counter() - start) * (os.cpu_count() or 1)
        return seconds, others <= TOLERANCE * available + BLUR / _TICKS

    def _used(self) -> float:
        """Seconds of processor time that this process and the worker's have used."""
        return _process_time(self._process.pid) + _process_time(os.getpid())

    def close(self) -> None:
        """Ends the process and waits for it."""
        self._process.kill()
        self._process.communicate()


def busy_time() -> float:
    """Seconds that all processors together have been busy since the machine started; 0 where Linux does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _process_time(pid: int) -> float:
    try:
        # The name, in brackets, may hold anything; utime and stime are the 14th and 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Rounds:
    """Seconds a step of each contestant, one number a round, in which nothing else ran."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    kept: int = 0
    dropped: int = 0
    #: No round was quiet, so all are here.
    disturbed: bool = False

    def median(self, name: str) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """Quartiles of the ratios of times within each round: lower, median, upper."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)]
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return lower, median, upper


def run_rounds(contestants: Sequence[Contestant], rounds: int, tell: Callable[[str], None]) -> Rounds:
    """Rounds until `rounds` were quiet, or too many were not; each in an order of its own."""
    order, shuffle = list(contestants), random.Random(0).shuffle
    quiet: list[dict[str, float]] = []
    noisy: list[dict[str, float]] = []
    while len(quiet) < rounds and len(quiet) + len(noisy) < PATIENCE * rounds:
        tell(f"round {len(quiet) + 1} of {rounds}" + (f", {len(noisy)} dropped" if noisy else ""))
        shuffle(order)
        turns = {each.name: each.turn() for each in order}
        calm = all(calm for _, calm in turns.values())
        (quiet if calm else noisy).append({name: seconds for name, (seconds, _) in turns.items()})
    kept = quiet or noisy
    seconds = {each.name: [found[each.name] for found in kept] for each in contestants}
    return Rounds(seconds, len(quiet), len(noisy), disturbed=not quiet)
