"""Starting programs on several ranks, for tests: an `mpiexec` that is there, a timeout, a quiet environment."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def find_mpiexec() -> str | None:
    """The launcher beside this interpreter, as pip installs it, or the system's."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.is_file() else shutil.which("mpiexec")


MPIEXEC = find_mpiexec()
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="no mpiexec or no mpi4py here; pip install 'graphir[mpi]' brings both",
)


def command(ranks: int, *arguments: object) -> list[str]:
    """`mpiexec -n 6 python …`."""
    assert MPIEXEC is not None
    return [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread a rank: there are more ranks than cores."""
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def launch(ranks: int, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs `python arguments…` on so many ranks; a run that does not end in time fails the test."""
    return subprocess.run(
        command(ranks, *arguments), env=environment(), capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )
