"""How this process was started: alone, or by a launcher as one of several ranks.

Launchers tell each process by its environment how many there are and which one it is: MPICH's and Intel's mpiexec
(PMI), Open MPI's (OMPI_COMM_WORLD), and torchrun and its like by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT, which any script may set.

    mpiexec -n 6 graphir train --dp 2 --tp 3
    torchrun --no-python --nproc-per-node 2 graphir train --backend cupy --tp 2

Open MPI refuses to start more processes than there are cores, and to run as root, unless told otherwise, and it binds
up to two processes to a core each, where threads of BLAS would crowd:

    mpiexec --oversubscribe --allow-run-as-root -n 6 graphir train --dp 2 --tp 3
    mpiexec --bind-to none -n 2 graphir train --tp 2

Interrupted, it kills what does not end within a second: where a step takes longer, a run goes on from its last
checkpoint. SIGTERM to one of the ranks, not to the launcher, lets all end their step and save it.

Several machines, each with torchrun or with the five variables: rank 0 listens at MASTER_PORT, and all others must
reach it there. MASTER_ADDR may be a name or an address of IPv4 or IPv6.

    export GRAPHIR_TOKEN=…                                                        # the same on both
    torchrun --nnodes 2 --node-rank 0 --master-addr gpu0 --no-python --nproc-per-node 8 graphir train …   # on gpu0
    torchrun --nnodes 2 --node-rank 1 --master-addr gpu0 --no-python --nproc-per-node 8 graphir train …   # on gpu1

Variables of graphir's own say the rest:

    GRAPHIR_TOKEN    a secret by which ranks know each other, of 16 characters at least, the same for all, known to
                     nobody else: what `openssl rand -hex 32` prints. It may be left out where all ranks are on one
                     machine and of one user. Of ranks that MPI brings together, rank 0 makes one for all.
    GRAPHIR_LISTEN   where rank 0 listens, if not at what MASTER_ADDR means on its machine, which may be a service that
                     passes connections on, or a name for 127.0.1.1. `0.0.0.0` is every address of IPv4, `::` of IPv6.
    GRAPHIR_TIMEOUT  for how many seconds ranks wait for one that does not come, at the start (120 unless told) or to
                     take part in something (1800).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphir.errors import ConfigError

#: What ranks can be.
RANKS = ("simulated", "mpi", "nccl")

#: Whose launcher, and its environment variables: processes in all, which one this is, processes on this machine,
#: which of these.
_MPI = (
    (
        "Open MPI",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    ("PMI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
)
#: Those of torchrun and its like; without all of these they are about something else.
_TORCH = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LOCAL = "LOCAL_WORLD_SIZE"
#: Set by torchrun itself, which may run under a launcher of machines, whose variables its processes inherit.
_TORCHRUN = "TORCHELASTIC_RUN_ID"
#: Set to "True" by a torchrun that serves at MASTER_PORT itself; its processes meet at the port after that one.
_TAKEN = "TORCHELASTIC_USE_AGENT_STORE"
#: Those of graphir's own.
TOKEN, LISTEN, TIMEOUT = "GRAPHIR_TOKEN", "GRAPHIR_LISTEN", "GRAPHIR_TIMEOUT"
#: The fewest characters of a token: who listens on the network shall not find it by trying all.
_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class Launch:
    """One of `size` processes, `local` of them on this machine.

    number    which of those on this machine it is
    master    the host and port at which rank 0 is met; None where the launcher is MPI's, and ranks meet through MPI
    launcher  "Open MPI", "PMI" for MPICH's and its like, or "torchrun"
    token     what ranks know each other by, that meet at `master`; None where nothing was said
    listen    where rank 0 listens, if not at the host of `master`
    timeout   for how many seconds ranks wait for one that does not come; None where nothing was said
    """

    size: int
    rank: int
    local: int
    number: int = 0
    master: tuple[str, int] | None = None
    launcher: str = field(default="torchrun", compare=False)
    token: bytes | None = field(default=None, repr=False)
    listen: str | None = None
    timeout: float | None = None

    def share(self, processors: int) -> int:
        """How many of this machine's processors are this process's."""
        return max(1, processors // self.local)


def find_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What the launcher says; None of a process that was started alone. ConfigError if it says what cannot be."""
    environment = os.environ if environment is None else environment
    like_torch = all(name in environment for name in _TORCH)
    if like_torch and _TORCHRUN in environment:
        return _read_torch(environment)
    for launcher, *names in _MPI:
        if names[0] in environment and names[1] in environment:
            return _read_mpi(environment, launcher, *names)
    return _read_torch(environment) if like_torch else None


def processes_here(environment: Mapping[str, str] | None = None) -> int:
    """How many processes of this run share the machine; where a launcher says what cannot be, this one alone."""
    try:
        launch = find_launch(environment)
    except ConfigError:  # told where ranks are asked for
        return 1
    return 1 if launch is None else launch.local


def _read_mpi(environment: Mapping[str, str], launcher: str, size: str, rank: str, local: str, number: str) -> Launch:
    said = ", ".join(f"{name}={environment[name]}" for name in (size, rank, local, number) if name in environment)
    try:
        count, mine = int(environment[size]), int(environment[rank])
        here = int(environment.get(local, count))
        place = int(environment.get(number, mine % here if here else 0))
    except ValueError:
        raise ConfigError(f"of {said}, all must be whole numbers") from None
    if not (0 <= mine < count and 0 <= place < here):
        raise ConfigError(f"{said}: ranks count from 0 to {size} - 1, those of a machine from 0")
    return Launch(count, mine, here, place, launcher=launcher, timeout=_read_timeout(environment))


def _read_torch(environment: Mapping[str, str]) -> Launch:
    said = ", ".join(f"{name}={environment[name]}" for name in (*_TORCH, _LOCAL) if name in environment)
    host, taken = environment["MASTER_ADDR"], environment.get(_TAKEN) == "True"
    try:
        size, rank, number, port = (int(environment[name]) for name in _TORCH if name != "MASTER_ADDR")
        local = int(environment.get(_LOCAL, size))
    except ValueError:
        raise ConfigError(f"of {said}, all but MASTER_ADDR must be whole numbers") from None
    if not (0 <= rank < size and number >= 0 and local > 0 and 0 < port < 65535 and host):
        raise ConfigError(
            f"{said}: ranks count from 0 to WORLD_SIZE - 1, MASTER_ADDR is a host, and a port is between 1 and 65534"
        )
    return Launch(
        size,
        rank,
        local,
        number,
        (host, port + taken),
        token=_read_token(environment),
        listen=environment.get(LISTEN) or None,
        timeout=_read_timeout(environment),
    )


def _read_token(environment: Mapping[str, str]) -> bytes | None:
    token = environment.get(TOKEN)
    if token is None:
        return None
    if len(token) < _TOKEN_LENGTH:
        raise ConfigError(
            f"{TOKEN} has {len(token)} characters, and needs {_TOKEN_LENGTH} at least, so that nobody guesses it: take "
            f"what `openssl rand -hex 32` prints"
        )
    return token.encode(errors="surrogateescape")


def _read_timeout(environment: Mapping[str, str]) -> float | None:
    said = environment.get(TIMEOUT)
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 1e7:
        raise ConfigError(f"{TIMEOUT}={said} is no number of seconds between 0 and 10,000,000")
    return seconds
