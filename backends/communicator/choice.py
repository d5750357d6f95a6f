"""Which communicator is meant."""

from __future__ import annotations

from graphir.backends.communicator.interface import Communicator
from graphir.backends.communicator.simulated import SimulatedCommunicator
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.launch import RANKS


def communicator_for(mesh: Mesh, ranks: str = "simulated", algorithm: str = "ring") -> Communicator:
    """What moves blocks between the ranks of `mesh`: `simulated` ones, which use `algorithm`, or those of `mpi`.

    Errors: ConfigError for an unknown kind or algorithm, or if MPI has started another number of processes;
    MissingDependencyError if there is no MPI.
    """
    if ranks not in RANKS:
        raise ConfigError(f"ranks={ranks!r} is unknown; choose from {', '.join(RANKS)}")
    simulated = SimulatedCommunicator(mesh, algorithm)
    if ranks == "simulated":
        return simulated
    from graphir.backends.communicator.mpi import MpiCommunicator

    return MpiCommunicator(mesh)
