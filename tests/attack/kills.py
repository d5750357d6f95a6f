"""Trainings that are killed at random moments, once or several times, and gone on with."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attack.outcome import HangError
from tests.attack.training import LIMIT, STEPS, end, new_folder, require_readable, resume_to_end, start, training

#: When a training is killed, as seen from outside.
_MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at its start": lambda folder: True,
    "within its steps": lambda folder: (folder / "metrics.jsonl").exists(),
    "within a save": lambda folder: any(folder.glob(".step-*.partial")),
    "at its end": lambda folder: (folder / f"step-{STEPS:06d}.safetensors").exists(),
}


def kills(seed: int) -> Iterator[tuple[str, str]]:
    """Trainings, each killed one to three times, that have to come to the end of one that nobody has killed."""
    rng = random.Random(seed)
    while True:
        moment = rng.choice(list(_MOMENTS))
        target = f"training killed {moment}"
        folder = new_folder("killed")
        times = rng.choice((1, 1, 2, 3))
        told = []
        for _ in range(times):
            delay = rng.uniform(0.0, 2.0) if moment == "at its start" else rng.choice((0.0, rng.uniform(0.0, 0.03)))
            killed = _kill(target, folder, _MOMENTS[moment], delay)
            told.append(f"{moment} + {1000 * delay:.1f} ms: {'killed' if killed else 'it had ended'}")
            require_readable(target, folder, "; ".join(told))
        half = any(folder.glob(".*.partial"))
        resume_to_end(target, folder, "; ".join(told))
        yield target, f"the same numbers in the end{', of a half-written file nothing' if half else ''}"


def _kill(target: str, folder: Path, has_come: Callable[[Path], bool], delay: float) -> bool:
    """Starts the training, or goes on with it, and kills it so long after the moment; False if it had ended."""
    process = start(training(folder))
    try:
        limit = time.monotonic() + LIMIT
        while process.poll() is None and not has_come(folder):
            if time.monotonic() > limit:
                raise HangError(target, "it does not come so far")
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
        code, _ = end(target, process, "until it was killed")
    finally:
        process.kill()
    return code != 0
