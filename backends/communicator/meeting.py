"""Which peers this process has: those that it meets through MPI, or by TCP, once for as long as it lives."""

from __future__ import annotations

from functools import cache

from graphir.backends.communicator.mpi_peers import MpiPeers
from graphir.backends.communicator.peers import WAITING, Peers
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.errors import CommunicationError
from graphir.launch import find_launch


def peers() -> Peers:
    """This process's peers, by whatever started it; the first call, on all ranks, brings them together.

    MissingDependencyError if they meet through MPI, and there is no mpi4py or no MPI that it finds.
    """
    launch = find_launch()
    return peers_by("tcp" if launch is not None and launch.master is not None else "mpi")


def peers_by(means: str) -> Peers:
    """The peers that this process meets through "mpi" or "tcp", which from now on end together.

    Errors: as of `peers`; CommunicationError, the same at every call, if they have not found together.
    """
    found = _met(means)
    if isinstance(found, CommunicationError):
        raise found
    return found


@cache
def _met(means: str) -> Peers | CommunicationError:
    found: Peers
    if means == "mpi":
        found = MpiPeers()
    else:
        try:
            found = TcpPeers(find_launch())
        except CommunicationError as error:
            return error  # who waited in vain shall not wait again
    launch = find_launch()
    found.timeout = WAITING if launch is None or launch.timeout is None else launch.timeout
    found.end_together()
    return found


__all__ = ["peers", "peers_by"]
