"""Storms of signals: to commands of all kinds at any moment, imports included, and to trainings."""

from __future__ import annotations

import random
import re
import signal
import subprocess
from collections.abc import Iterator

from tests.attack.outcome import LossError, RawError
from tests.attack.training import (
    ROOT,
    command,
    is_raw,
    new_folder,
    require_readable,
    resume_to_end,
    start,
    training,
    undisturbed,
    wait,
)

_COMMANDS = (
    ("ops",),
    ("ir", "transformer", "--layers", "1"),
    ("check", "--layers", "1", "--tp", "2"),
    ("cost",),
    ("why", "--tp", "2"),
    ("generate", "undisturbed", "--tokens", "40"),
    ("draw", "mlp-forward", "-o", "drawn.svg"),
)
#: What is loaded until Ctrl-C has a meaning of graphir's.
_FIRST = {"graphir/__init__.py", "graphir/interrupts.py"}
#: Seconds that a command takes, about, on an idle machine.
_LONG = 2.5


def signals(seed: int) -> Iterator[tuple[str, str]]:
    """Commands that are interrupted once or many times: they end with 130, or at their end, and say nothing raw."""
    rng = random.Random(seed)
    undisturbed()
    while True:
        if rng.random() < 0.5:
            yield _command(rng)
        else:
            yield _training(rng)


def _command(rng: random.Random) -> tuple[str, str]:
    words = rng.choice(_COMMANDS)
    target, storm = "commands, Ctrl-C", _storm(rng, (signal.SIGINT,))
    how = f"graphir {' '.join(words)}, {_spelled(storm)}"
    code, said = _weather(target, start(command(*words)), storm, how)
    if code == 0:
        return target, "had ended"
    if _is_pythons_own(said):
        return target, "Python itself was still starting"
    if is_raw(said) or code not in (130, -signal.SIGINT):
        raise RawError(target, f"{how}: it ends with {code}: {said[-2000:]}")
    return target, "interrupted"


def _training(rng: random.Random) -> tuple[str, str]:
    target, storm = "trainings, SIGINT and SIGTERM", _storm(rng, (signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    folder, how = new_folder("stormy"), _spelled(storm)
    code, said = _weather(target, start(training(folder)), storm, how)
    own = _is_pythons_own(said)
    if is_raw(said) and not own:
        raise RawError(target, f"{how}: {said[-2000:]}")
    if not own and code not in (0, 130, 143, -signal.SIGINT, -signal.SIGTERM):
        raise LossError(target, f"{how}: it ends with {code}: {said}")
    saved = require_readable(target, folder, how)
    resume_to_end(target, folder, how)
    begun = "gone on with" if saved else "begun again"
    return target, "had ended" if code == 0 else f"ended, {begun}, the same numbers"


def _storm(rng: random.Random, numbers: tuple[int, ...]) -> list[tuple[float, int]]:
    """Signals, each with the seconds that pass before it."""
    count = rng.choice((1, 1, 2, 3, 20))
    gaps = [rng.uniform(0.0, _LONG), *(rng.choice((0.0, 0.001, rng.uniform(0.0, 0.1))) for _ in range(count - 1))]
    return [(gap, rng.choice(numbers)) for gap in gaps]


def _spelled(storm: list[tuple[float, int]]) -> str:
    return ", ".join(f"{signal.Signals(number).name} after {gap:.3f} s" for gap, number in storm)


def _weather(target: str, process: subprocess.Popen[str], storm: list[tuple[float, int]], how: str) -> tuple[int, str]:
    """Sends the signals; exit code and stderr."""
    for gap, number in storm:
        try:
            process.wait(timeout=gap)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    return wait(target, process, how)


def _is_pythons_own(said: str) -> bool:
    """Whether the interpreter was interrupted before what Ctrl-C does was said."""
    files = set(re.findall(rf'File "{re.escape(str(ROOT))}/([^"]+)"', said))
    return is_raw(said) and files <= _FIRST and "threading.py" not in said
