"""A small training by the command line, which attacks disturb, and what it comes to when nobody does."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from graphir.errors import GraphirError
from graphir.training import load_checkpoint
from graphir.training.checkpoint import list_checkpoints
from graphir.training.metrics import read_metrics
from tests.attack.outcome import HangError, LossError, RawError
from tests.support.paths import ROOT

STEPS = 24
#: Seconds after which a training of these sizes hangs, however busy the machine is.
LIMIT = 300.0
#: Each step is saved, so that many moments lie within a save.
SIZES = "--layers=1 --sequence=8 --width=8 --heads=2 --batch=2 --dropout=0.2 --validation=0.2 --validate-batches=1"
OPTIONS = [*SIZES.split(), f"--steps={STEPS}", "--validate-every=5", "--checkpoint-every=1", "--sample=0", "--seed=5"]
#: What Python, or a package, says by itself.
_RAW = ("Traceback (most recent call", "Exception ignored", "Fatal Python error", "a defect of graphir", "panicked")


@cache
def workshop() -> Path:
    """A folder for all that attacks write, which goes with the process, and the text to train on."""
    folder = Path(tempfile.mkdtemp(prefix="graphir-attack-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "text").write_text("the cat sat on the mat, and the rat sat on the cat. " * 20)
    return folder


def new_folder(name: str) -> Path:
    """A folder of that name, with nothing in it."""
    folder = workshop() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def command(*arguments: object) -> list[str]:
    """`graphir …`, by this interpreter."""
    return [sys.executable, "-m", "graphir", *map(str, arguments)]


def training(out: Path, *more: object) -> list[str]:
    """The training, from its beginning or from its last checkpoint, whatever there is."""
    if list_checkpoints(out):
        return command("train", "--resume", "--steps", STEPS, "--out", out, *more)
    return command("train", "--text", workshop() / "text", *OPTIONS, "--out", out, *more)


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    """The process of a command, on one thread, its words kept."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, cwd=workshop(), stdout=pipe, stderr=pipe, text=True, **options)


def end(target: str, process: subprocess.Popen[str], how: str) -> tuple[int, str]:
    """Its exit code and what it said on stderr; HangError where it does not end, RawError for what is raw."""
    code, said = wait(target, process, how)
    if is_raw(said):
        raise RawError(target, f"{how}: {said[-2000:]}")
    return code, said


def wait(target: str, process: subprocess.Popen[str], how: str) -> tuple[int, str]:
    """Its exit code and what it said on stderr, whatever that is; HangError where it does not end."""
    try:
        _, said = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise HangError(target, f"no end within {LIMIT:g} s: {how}") from None
    return process.returncode, said


def is_raw(said: str) -> bool:
    """Whether Python or a package has said something by itself."""
    return any(raw in said for raw in _RAW)


@cache
def undisturbed() -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """What the training comes to when nobody disturbs it: its last tensors, and its metrics without the clock's."""
    folder = new_folder("undisturbed")
    subprocess.run(training(folder), check=True, capture_output=True, cwd=workshop(), timeout=LIMIT)
    return outcome_of(folder)


def outcome_of(folder: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """What a folder holds of a training."""
    arrays = load_checkpoint(list_checkpoints(folder)[-1][1]).arrays
    records = read_metrics(folder / "metrics.jsonl")
    timeless = [{name: each for name, each in record.items() if name != "tokens_per_second"} for record in records]
    return {name: array.tobytes() for name, array in arrays.items()}, timeless


def require_finished(target: str, folder: Path, how: str) -> None:
    """LossError unless the training has been brought to its end, with the numbers of one that nobody disturbed."""
    try:
        tensors, records = outcome_of(folder)
    except (GraphirError, IndexError) as error:
        raise LossError(target, f"{how}: no checkpoint that can be read: {error!r}") from None
    right, curve = undisturbed()
    different = [name for name, content in right.items() if tensors.get(name) != content]
    if different or tensors.keys() != right.keys():
        raise LossError(target, f"{how}: other tensors: {', '.join(different)}")
    if records != curve:
        raise LossError(target, f"{how}: other metrics, of steps {_steps(records)}")
    left = sorted(path.name for path in folder.iterdir() if path.suffix != ".safetensors")
    if left != ["loss.png", "metrics.jsonl"]:
        raise LossError(target, f"{how}: there is {', '.join(left)}")


def resume_to_end(target: str, folder: Path, how: str) -> None:
    """Goes on, from the last checkpoint or from the beginning, and requires the end that would have been."""
    code, said = end(target, start(training(folder)), f"{how}, gone on with")
    if code:
        raise LossError(target, f"{how}, gone on with, ends with {code}: {said}")
    require_finished(target, folder, how)


def require_readable(target: str, folder: Path, how: str) -> int:
    """The number of checkpoints, each of which has to be whole: LossError otherwise."""
    found = list_checkpoints(folder)
    for _, path in found:
        try:
            load_checkpoint(path)
        except GraphirError as error:
            raise LossError(target, f"{how}: {error}") from None
    return len(found)


def _steps(records: Iterable[dict[str, float]]) -> str:
    return ", ".join(f"{record['step']:g}" for record in records)
