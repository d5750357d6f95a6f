"""Ranks that are killed, ended or stopped at random moments, that disagree, or whose memory fails.

Each trial is a training on 2, 4 or 6 MPI ranks, or ranks that only wait for each other by TCP. Whatever becomes of one,
all have to end within a limit, with the right exit code, without a traceback, and every checkpoint that is left has to
be whole.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from graphir.errors import GraphirError
from graphir.training import load_checkpoint
from graphir.training.checkpoint import list_checkpoints
from tests.attack.outcome import HangError, LossError, RawError
from tests.support.free_port import free_port
from tests.support.mpi import command, environment, process_of, words
from tests.support.paths import ROOT
from tests.support.processes import environment as environment_by_tcp

#: Seconds that ranks wait for one that does not come, here, and that they may take beyond that to start and to end on a
#: machine that is busy with other things.
PATIENCE, SLACK = 20.0, 100.0
#: What ranks may be laid out as.
MESHES = {2: ("--dp 2", "--tp 2"), 4: ("--dp 2 --tp 2",), 6: ("--dp 2 --tp 3",)}
OPTIONS = "--layers 1 --sequence 12 --width 24 --heads 6 --batch 4 --sample 0 --validate-batches 1 --steps 24"
OPTIONS += " --checkpoint-every 2 --verify-replicas 3 --quiet"
#: What one rank may be started with in place of what all others are.
OTHERWISE = ("--steps 8", "--learning-rate 0.1", "--seed 9", "--layers 2", "--validate-every 5", "--plan zero1")
#: A training of which one rank changes a bit of what it holds, at some step.
FLIPPED = """
import os, sys
import numpy as np
from graphir.training import loop
who, step, bit = map(int, sys.argv[1:4])
usual = loop._Training._advance
def advance(run):
    record = usual(run)
    if run.communicator.ranks[0] == who and run.step == step:
        held = run.arrays["layer0/mlp/gamma"].view(np.uint8)
        held[bit // 8 % held.size] ^= np.uint8(1 << bit % 8)
    return record
loop._Training._advance = advance
from graphir.cli import main
main(sys.argv[4:])
"""
#: What ranks do that meet by TCP: they share something, over and over, as often as they are told.
SHARING = """
import sys, time
from graphir.cli.ranks import end_ranks
from graphir.backends.communicator.meeting import peers
from graphir.errors import GraphirError
try:
    for turn in range(int(sys.argv[1])):
        peers().share(b"part", f"turn {turn}")
        time.sleep(0.002)
except GraphirError as error:
    end_ranks(f"error: {error}", 2, error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""
#: What is said when all is as it should be: errors in sentences, how to go on, what MPI's launcher adds.
_LINE = re.compile(
    r"(rank \d+( \([a-z0-9=, ]+\))?: )?(error: .*|interrupted.*)|  graphir train --resume .*|Abort\(\d+\) on node .*|"
    r"=.*|YOUR APPLICATION .*|This typically .*|Please see .*|\[mpiexec@.*|"
)


def ranks(seed: int) -> Iterator[tuple[str, str]]:
    """Trials without end: what was done to how many ranks, and what came of it."""
    random = Random(seed)
    while True:
        act = random.choice(ACTS)
        with tempfile.TemporaryDirectory(prefix="attack-ranks-") as folder:
            yield act(Trial(random, random.choice(list(MESHES)), Path(folder)))


@dataclass(frozen=True)
class Trial:
    """A source of chance, how many ranks, and where they leave something."""

    random: Random
    size: int
    folder: Path

    def options(self) -> list[str]:
        """Those of a training of so many ranks."""
        mesh = self.random.choice(MESHES[self.size])
        return ["train", *OPTIONS.split(), *mesh.split(), "--out", str(self.folder / "run")]

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """A program on MPI ranks."""
        return _start(command(self.size, *arguments), environment() | {"GRAPHIR_TIMEOUT": str(PATIENCE)})

    def rank(self) -> int:
        """One of them."""
        return self.random.randrange(self.size)


def _start(arguments: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


# -- what is done ------------------------------------------------------------------------------------------


def killed(trial: Trial) -> tuple[str, str]:
    """One rank is killed, or crashes."""
    number = trial.random.choice((signal.SIGKILL, signal.SIGSEGV))
    return _struck(trial, f"{trial.size} ranks by MPI, one killed", number, lambda code: code != 0)


def told_to_end(trial: Trial) -> tuple[str, str]:
    """One rank is told to end: the code is that of the signal, wherever it arrives."""
    number = trial.random.choice((signal.SIGTERM, signal.SIGINT))
    right = {int(number), 128 + number, 2}  # 2: some other rank lost it before the signal was listened to
    return _struck(trial, f"{trial.size} ranks by MPI, one told to end", number, right.__contains__)


def stopped(trial: Trial) -> tuple[str, str]:
    """One rank is stopped: the others give it up."""
    return _struck(trial, f"{trial.size} ranks by MPI, one stopped", signal.SIGSTOP, lambda code: code != 0)


def stopped_and_told_to_end(trial: Trial) -> tuple[str, str]:
    """One rank is stopped, and another told to end: it does not wait for the first."""
    target = f"{trial.size} ranks by MPI, one stopped, another told to end"
    return _struck(trial, target, signal.SIGSTOP, lambda code: code != 0, then=signal.SIGTERM)


def otherwise(trial: Trial) -> tuple[str, str]:
    """One rank is started with another option: all are told, and end with code 2, before anything is written."""
    target, options, other = f"{trial.size} ranks by MPI, one otherwise", trial.options(), trial.rank()
    option = trial.random.choice(OTHERWISE)
    program = (
        "import sys; from graphir.launch import find_launch; from graphir.cli import main; "
        f"main(sys.argv[1:] + ({option.split()!r} if find_launch().rank == {other} else []))"
    )
    code, told = _end(target, [trial.start("-c", program, *options)], option)[0]
    said = re.search(rf"{option.split()[0]} is (\S+) for", told)
    if code != 2 or said is None or (trial.folder / "run").exists():
        raise LossError(target, f"{option} of rank {other}: code {code}, {told!r}")
    return target, "told which and in what"


def flipped(trial: Trial) -> tuple[str, str]:
    """A bit of one rank's replica changes: the tensor is named, and no checkpoint has it."""
    target, rank = f"{trial.size} ranks by MPI, a bit flipped", trial.rank()
    step, bit = trial.random.randrange(1, 24), trial.random.randrange(768)
    process = trial.start("-c", FLIPPED, rank, step, bit, *trial.options())
    code, told = _end(target, [process], f"bit {bit} of rank {rank} after step {step}")[0]
    saved = [found for found, _ in list_checkpoints(trial.folder / "run")]
    if code != 2 or "layer0/mlp/gamma" not in told or any(found >= step for found in saved):
        raise LossError(target, f"bit {bit} of rank {rank} after step {step}: code {code}, {saved}, {told!r}")
    _require_readable(target, trial)
    return target, "tensor and step named"


def by_tcp(trial: Trial) -> tuple[str, str]:
    """One of the ranks that meet by TCP is killed, told to end, or stopped."""
    number = trial.random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))
    target = f"{trial.size} ranks by TCP, one {'stopped' if number == signal.SIGSTOP else 'killed'}"
    port, patience = free_port(), PATIENCE / 4
    processes = [
        _start(
            [sys.executable, "-c", SHARING, "100000"],
            environment_by_tcp(rank, trial.size, port) | {"GRAPHIR_TIMEOUT": str(patience)},
        )
        for rank in range(trial.size)
    ]
    struck, delay = trial.rank(), trial.random.uniform(0.0, 3.0)
    how = f"{signal.Signals(number).name} to rank {struck} after {delay:.2f} s"
    time.sleep(delay)
    processes[struck].send_signal(number)
    others = [each for rank, each in enumerate(processes) if rank != struck]
    try:
        ended = _end(target, others, how)
    finally:
        processes[struck].kill()
        processes[struck].communicate()
    if not all(code for code, _ in ended):
        raise LossError(target, f"{how}: codes {[code for code, _ in ended]}")
    return target, "all ended"


#: What is done to ranks, the more often the more times it is listed.
ACTS: list[Callable[[Trial], tuple[str, str]]] = [
    killed,
    killed,
    killed,
    told_to_end,
    told_to_end,
    stopped,
    stopped_and_told_to_end,
    otherwise,
    flipped,
    by_tcp,
]


# -- what has to come of it --------------------------------------------------------------------------------


def _struck(
    trial: Trial, target: str, number: int, right: Callable[[int], bool], then: signal.Signals | None = None
) -> tuple[str, str]:
    """A training of which one rank gets a signal at some moment, and perhaps another one a second, later."""
    process = trial.start("-m", "graphir", *trial.options())
    struck, delay = trial.rank(), trial.random.uniform(0.0, 6.0)
    # Some moments are counted from the start, some from the first checkpoint on.
    late = trial.random.random() < 0.6
    how = f"{signal.Signals(number).name} to rank {struck} after {delay:.2f} s{' of steps' if late else ''}"
    if late:
        _wait(target, process, lambda: bool(list_checkpoints(trial.folder / "run")))
        delay /= 6
    time.sleep(delay)
    hit = _signal(process, trial, struck, number)
    if hit and then is not None:
        time.sleep(trial.random.uniform(0.0, 2.0))
        _signal(process, trial, (struck + 1) % trial.size, then)
    code, told = _end(target, [process], how, lambda: _wake(trial, struck))[0]
    _require_readable(target, trial)
    if not hit or code == 0:
        return target, "it had ended"
    if not right(code):
        raise LossError(target, f"{how}: code {code}, {told!r}")
    return target, "all ended"


def _signal(process: subprocess.Popen[str], trial: Trial, rank: int, number: int) -> bool:
    """Sends a signal to a rank; False if there is none any more, or not yet one that can be found."""
    if process.poll() is not None:
        return False
    try:
        os.kill(process_of(rank, trial.folder / "run"), number)
    except (AssertionError, ProcessLookupError):
        return False
    return True


def _wake(trial: Trial, rank: int) -> bool:
    """Lets a rank go on that was stopped when all were leaving, and wait for each other as long as that may take."""
    try:
        os.kill(process_of(rank, trial.folder / "run"), signal.SIGCONT)
    except (AssertionError, ProcessLookupError):
        return False
    return (trial.folder / "run" / "step-000024.safetensors").exists()


def _wait(target: str, process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE + SLACK
    while process.poll() is None and not ready():
        if time.monotonic() > end:
            process.kill()
            raise HangError(target, "no checkpoint, and no end")
        time.sleep(0.01)


def _end(
    target: str, processes: Sequence[subprocess.Popen[str]], how: str, rescue: Callable[[], bool] = lambda: False
) -> list[tuple[int, str]]:
    """The exit code of each process and what it said on stderr; AttackError if one hangs or says anything raw."""
    limit, found = time.monotonic() + PATIENCE + SLACK, []
    try:
        for each in processes:
            try:
                _, told = each.communicate(timeout=max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                if not rescue():
                    raise HangError(target, f"{how}: no end within {PATIENCE + SLACK:g} s") from None
                _, told = each.communicate(timeout=SLACK)
            raw = [line for line in words(told).splitlines() if _LINE.fullmatch(line) is None]
            if raw:
                raise RawError(target, f"{how}: {raw[:20]}")
            found.append((each.returncode, told))
    finally:
        for each in processes:
            if each.poll() is None:
                each.kill()
                each.communicate()
    return found


def _require_readable(target: str, trial: Trial) -> None:
    """AttackError unless every checkpoint that is left is whole."""
    for _, path in list_checkpoints(trial.folder / "run"):
        try:
            load_checkpoint(path)
        except GraphirError as error:
            raise LossError(target, str(error)) from None


__all__ = ["ranks"]
