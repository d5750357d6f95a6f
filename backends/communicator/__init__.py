"""Communicators: what moves blocks between the ranks of a mesh.

    interface   what every communicator can do
    simulated   all ranks in one process
    mpi         one process a rank, through mpi4py; loaded only when asked for
    nccl        one process a rank and a GPU, through CuPy; `nccl_groups` is how ranks come together there,
                `nccl_blocks` what is done to blocks on the device before and after they travel
    choice      which of them is meant
    meeting     which processes this one is together with, and how they have met: its `peers`
    peers       what ranks tell each other when one of them stops: by MPI (`mpi_peers`, and `watchdog`, a process that
                sees when one is killed; `watchdog_client` is how ranks speak to it) or by TCP (`tcp_peers`)
    rendezvous  where ranks come in by TCP, and nobody else: `joining` is the other end, `handshake` and `tokens` are
                how they know each other
    hub         what relays their `frames` from then on, over `sockets`, which see a machine that falls silent
    agreement   whether ranks have been started alike, before they compute together

All three have the collectives over any group of the mesh, and pass one conformance suite
(`tests/support/conformance.py`). `gi.compile(…, ranks="mpi")` makes the executable of this process's rank.

Ranks meet through MPI, or, started by torchrun, by TCP at MASTER_ADDR, where a hub in rank 0 relays what they tell.
There, nothing is believed of who comes before it has proved, by HMAC, that it knows the token of the launch, and the
hub has proved the same; whatever one connection brings ends that connection alone.

Before they compute, ranks compare what they were started with: a training's options, data and checkpoint, and of
whatever is compiled the graph's fingerprint, sizes, options, versions, BLAS and threads. Which ranks hold the same
block of a parameter follows from its type; digests of such replicas (`graphir.backends.replicas`) are compared every
hundred steps, while the next one is computed, and before each checkpoint. Where machines differ, so that last bits may,
that is said, and norms are compared.

Reductions are moved up to their makers (`graphir.passes.overlap`), put into buckets in an order that the graph gives
(`graphir.backends.buckets`), started without waiting and waited for before the first reader.

Ranks tell each other of errors by notes; the watchdog knows who was killed, and a machine that falls silent is given up
after ten seconds, by the system's own probes. Nobody waits for ever: who gives up asks all others where they are, and
says for whom it has waited, at which node's collective (`peers.Peers.until`).
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
