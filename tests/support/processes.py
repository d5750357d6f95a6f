"""Processes that tests start: they heed Ctrl-C, and those that are told so belong together.

That is said by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from tests.support.free_port import free_port
from tests.support.paths import ROOT

#: What launchers set, and who uses them, which no test inherits.
_LAUNCHERS = ("PMI_", "OMPI_", "MPI_LOCAL", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
_LAUNCHERS += ("GRAPHIR_TOKEN", "GRAPHIR_LISTEN", "GRAPHIR_TIMEOUT")


def heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and so would all processes that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """That of a rank, with one thread of BLAS: there are more ranks than cores."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**inherited, **own, **{name: str(value) for name, value in told.items()}}


#: Seconds after which processes hang. Nothing that is right takes as long, however busy the machine; who is to be ended
#: by others would go on for twice as long.
LIMIT = 300.0


#: The command line. When each rank ends with an error, they wait for each other's notes as long as a busy machine may
#: take to bring them: what all say alike is told once.
PATIENT = """
import sys
from graphir.backends.communicator import peers
peers.GRACE = 100.0
from graphir.cli import main
main(sys.argv[1:])
"""


class Outcome:
    """What became of the processes: exit codes and stderr by rank, stdout of all."""

    def __init__(self, processes: list[subprocess.Popen[str]], timeout: float) -> None:
        end = time.monotonic() + timeout
        try:
            told = [each.communicate(timeout=max(0.1, end - time.monotonic())) for each in processes]
        finally:
            for each in processes:
                each.kill()
                each.communicate()
        self.codes = [each.returncode for each in processes]
        self.stdout = "".join(out for out, _ in told)
        self.stderr = [err for _, err in told]


def launch(
    size: int,
    *arguments: object,
    timeout: float = LIMIT,
    missing: frozenset[int] = frozenset(),
    more: Mapping[int, Mapping[str, str]] | None = None,
) -> Outcome:
    """`python arguments…` on every rank but those that are missing; `more` variables for some."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**environment(rank, size, port), **(more or {}).get(rank, {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(size)
        if rank not in missing
    ]
    return Outcome(processes, timeout)
