"""How this process was started: alone, or by a launcher as one of several ranks.

Launchers tell each process by its environment how many there are and which one it is: MPICH's and Intel's mpiexec
(PMI), Open MPI's (OMPI_COMM_WORLD), and those that speak PMIx only.

    mpiexec -n 6 graphir train --dp 2 --tp 3

Open MPI refuses to start more processes than there are cores, and to run as root, unless told otherwise; threads of
BLAS should be bound to nothing narrower than a rank's share of the cores:

    mpirun -n 6 --oversubscribe --bind-to none [--allow-run-as-root] graphir train --dp 2 --tp 3
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

#: What ranks can be.
RANKS = ("simulated", "mpi")

#: Environment variables: processes in all, which one this is, processes on this machine.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"),
)


@dataclass(frozen=True)
class Launch:
    """One of `size` processes, `local` of them on this machine."""

    size: int
    rank: int
    local: int

    def share(self, processors: int) -> int:
        """How many of this machine's processors are this process's."""
        return max(1, processors // self.local)


def find_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What the launcher says; None of a process that was started alone."""
    environment = os.environ if environment is None else environment
    for size, rank, local in _LAUNCHERS:
        if size in environment and rank in environment:
            count = int(environment[size])
            return Launch(count, int(environment[rank]), int(environment.get(local, count)))
    return None
