"""Trainings on a disk that is full sooner or later, and gone on with when there is room again.

Where the system lets it (root, on Linux), the disk is a small file system in memory; elsewhere no file may grow beyond
a limit, which is another error at the same places.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attack.outcome import LossError
from tests.attack.training import end, new_folder, require_readable, resume_to_end, start, training, undisturbed

#: Bytes that the training needs, about.
_ENOUGH = 120_000


@dataclass
class Disk:
    """A folder, how a process is started that has so little room there, and what the system says when it is full."""

    folder: Path
    options: dict[str, Any]
    refusal: str
    mounted: bool

    def make_room(self) -> None:
        """From now on there is enough."""
        self.options = {}
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=100m", str(self.folder)], check=True)


def disk(seed: int) -> Iterator[tuple[str, str]]:
    """Trainings that run out of room at every place there is to run out of it."""
    rng = random.Random(seed)
    undisturbed()
    while True:
        size = rng.randrange(4096, _ENOUGH)
        with _small(size) as small:
            target = "training on a full disk" if small.mounted else "training whose files may not grow"
            how, folder = f"{size} bytes", small.folder / "run"
            code, said = end(target, start(training(folder), **small.options), how)
            if code not in (0, 2) or (code == 2 and small.refusal not in said):
                raise LossError(target, f"{how}: it ends with {code}: {said}")
            left = require_readable(target, folder, how) if folder.is_dir() else 0
            small.make_room()
            resume_to_end(target, folder, how)
        begun = "gone on with" if left else "begun again"
        yield target, "there was room" if code == 0 else f"told in a sentence, {begun}, the same numbers"


@contextmanager
def _small(size: int) -> Iterator[Disk]:
    """A disk of so many bytes."""
    folder = new_folder("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "graphir-attack", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        if mounted:
            yield Disk(folder, {}, "No space left on device", True)
        else:
            limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 8, size // 8))}
            yield Disk(folder, limit, os.strerror(27), False)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
