"""Communicators: what moves blocks between the ranks of a mesh.

interface   what every communicator can do
simulated   all ranks in one process
mpi         one process a rank, through mpi4py; loaded only when asked for
nccl        one process a rank and a GPU, through CuPy; `nccl_groups` is how ranks come together there,
            `nccl_blocks` what is done to blocks on the device before and after they travel
choice      which of them is meant
meeting     which processes this one is together with, and how they have met: its `peers`
peers       what ranks tell each other when one of them stops: by MPI (`mpi_peers`, and `watchdog`, a process that sees
            when one is killed; `watchdog_client` is how ranks speak to it) or by TCP (`tcp_peers`)
rendezvous  where ranks come in by TCP, and nobody else: `joining` is the other end, `handshake` and `tokens` are how
            they know each other
hub         what relays their `frames` from then on, over `sockets`, which see a machine that falls silent
agreement   whether ranks have been started alike, before they compute together
"""

from graphir.backends.communicator.agreement import Terms, require_agreement
from graphir.backends.communicator.choice import communicator_for
from graphir.backends.communicator.interface import Block, Communicator, Done, Pending, Traffic
from graphir.backends.communicator.simulated import ALGORITHMS, SimulatedCommunicator

__all__ = [
    "ALGORITHMS",
    "Block",
    "Communicator",
    "Done",
    "Pending",
    "SimulatedCommunicator",
    "Terms",
    "Traffic",
    "communicator_for",
    "require_agreement",
]
