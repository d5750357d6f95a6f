"""Which communicator is meant."""

from __future__ import annotations

from graphir.backends.communicator.interface import Communicator
from graphir.backends.communicator.simulated import SimulatedCommunicator
from graphir.backends.registry import find_backend
from graphir.errors import ConfigError
from graphir.ir.layout import Mesh
from graphir.launch import RANKS


def communicator_for(
    mesh: Mesh, ranks: str = "simulated", algorithm: str = "ring", backend: str | None = None
) -> Communicator:
    """What moves blocks between the ranks of `mesh`: `simulated`, which use `algorithm`, or those of `mpi` or `nccl`.

    With `backend`, its ranks have to be able to be so.
    Errors: ConfigError for an unknown kind or algorithm, for a backend that does not go with it, or if another number
    of processes has been started; MissingDependencyError if there is no MPI or no NCCL; DeviceError without a GPU.
    """
    if ranks not in RANKS:
        raise ConfigError(f"ranks={ranks!r} is unknown; choose from {', '.join(RANKS)}")
    if backend is not None:
        find_backend(backend).require_ranks(ranks)
    simulated = SimulatedCommunicator(mesh, algorithm)
    if ranks == "simulated":
        return simulated
    if ranks == "mpi":
        from graphir.backends.communicator.mpi import MpiCommunicator

        return MpiCommunicator(mesh)
    from graphir.backends.communicator.nccl import NcclCommunicator

    return NcclCommunicator(mesh)
