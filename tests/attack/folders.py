"""Two trainings in one folder, at the same time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.attack.outcome import LossError
from tests.attack.training import STEPS, end, new_folder, require_finished, start, training

_REFUSALS = ("is being trained into by", "holds a run already", "is at step")


def folders(seed: int) -> Iterator[tuple[str, str]]:
    """Two to four trainings into one folder: one comes to its end as if it were alone, the others are refused."""
    rng = random.Random(seed)
    while True:
        folder = new_folder("shared")
        target = "several trainings in one folder"
        if rng.random() < 0.5:
            target += ", gone on with"
            _begin(target, folder)
        count = rng.choice((2, 2, 3, 4))
        delays = [0.0, *(rng.choice((0.0, rng.uniform(0.0, 1.5))) for _ in range(count - 1))]
        how = f"{count} of them, {', '.join(f'{delay:.2f}' for delay in delays)} s apart"
        arguments, processes = training(folder), []
        for delay in delays:
            time.sleep(delay)
            processes.append(start(arguments))
        ends = [end(target, process, how) for process in processes]
        for code, said in ends:
            if code not in (0, 2) or (code == 2 and not any(refusal in said for refusal in _REFUSALS)):
                raise LossError(target, f"{how}: one ends with {code}: {said}")
        if not any(code == 0 for code, _ in ends):
            raise LossError(target, f"{how}: none has come to its end: {ends}")
        require_finished(target, folder, how)
        refused = sum(code == 2 for code, _ in ends)
        yield target, f"one as if alone, {refused} refused"


def _begin(target: str, folder: Path) -> None:
    """A few steps of the training, the last of them validated in any case."""
    process = start(training(folder, "--steps", 5, "--schedule-steps", STEPS))
    code, said = end(target, process, "its beginning")
    if code:
        raise LossError(target, f"its beginning ends with {code}: {said}")
