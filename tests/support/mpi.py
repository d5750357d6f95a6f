"""Starting programs on several ranks, for tests: an `mpiexec` that is there, a timeout, a quiet environment."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import LIMIT


def find_mpiexec() -> str | None:
    """The launcher beside this interpreter, as pip installs it, or the system's."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.is_file() else shutil.which("mpiexec")


def _is_open_mpis(launcher: str | None) -> bool:
    if launcher is None:
        return False
    told = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=60).stdout
    return "(Open" in told.partition("\n")[0]  # mpiexec (OpenRTE) 4.1.4, mpirun (Open MPI) 5.0.6


MPIEXEC = find_mpiexec()
OPEN_MPIS_LAUNCHER = _is_open_mpis(MPIEXEC)
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="no mpiexec or no mpi4py here; the extra `mpi` brings both",
)


def command(ranks: int, *arguments: object) -> list[str]:
    """`mpiexec -n 6 python …`."""
    assert MPIEXEC is not None
    return [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, arguments)]


#: What Open MPI's launcher, 4's and 5's, has to be told here: ranks may be more than cores, and run as root.
OPEN_MPI = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    **{f"{name}_ALLOW_RUN_AS_ROOT{suffix}": "1" for name in ("OMPI", "PRTE") for suffix in ("", "_CONFIRM")},
}


def environment() -> dict[str, str]:
    """One thread a rank: there are more ranks than cores."""
    return {**os.environ, **OPEN_MPI, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def words(told: str) -> str:
    """What ranks have said on stderr, without the notice that Open MPI's launcher adds when one has failed."""
    return re.sub(r"^-{60,}\n.*?^-{60,}\n", "", told, flags=re.DOTALL | re.MULTILINE)


def launch(ranks: int, *arguments: object, timeout: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """Runs `python arguments…` on so many ranks; a run that hangs fails the test."""
    return subprocess.run(
        command(ranks, *arguments), env=environment(), capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )


def process_of(rank: int, folder: Path) -> int:
    """The process of a rank of the run into `folder`."""
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_text().split("\0")
            variables = (entry / "environ").read_text().split("\0")
        except OSError:
            continue
        if str(folder) in arguments and {f"PMI_RANK={rank}", f"OMPI_COMM_WORLD_RANK={rank}"} & set(variables):
            return int(entry.name)
    raise AssertionError(f"rank {rank} has no process")
