"""The command line as one of several ranks: `mpiexec -n 6 graphir train --dp 2 --tp 3`, or by torchrun on GPUs.

A launcher starts as many command lines as there are ranks. Each finds out by its environment that it is one of them;
that of rank 0 alone prints, and what is wrong is told once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import click

from graphir.cli.options import GroupedOption, offered_backends
from graphir.errors import CommunicationError, ConfigError, MissingDependencyError
from graphir.launch import LISTEN, RANKS, TIMEOUT, TOKEN, find_launch

#: What variables mean to ranks that are processes.
ENVIRONMENT = {
    TOKEN: "A secret by which ranks that torchrun started know each other: the same for all, and for nobody else.  "
    "[default: on one machine, one is made]",
    LISTEN: "Where rank 0 listens, if not at what MASTER_ADDR means on its machine.",
    TIMEOUT: "For how many seconds ranks wait for one that does not come.  [default: 120 at the start, then 1800]",
}
_THREADS = "OPENBLAS_NUM_THREADS"


def ranks_option(group: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the option `--ranks`."""
    others = (each.name for each in offered_backends() if "nccl" in each.ranks)
    by_backend = "".join(f" or with --backend {name}" for name in others)
    return click.option(
        "--ranks",
        cls=GroupedOption,
        group=group,
        type=click.Choice(RANKS),
        help="All ranks simulated by one process, or each a process, with a GPU under nccl.  "
        f"[default: mpi if started by mpiexec, nccl if by torchrun{by_backend}]",
    )


def start_ranks(ranks: str | None, backend: str = "numpy") -> tuple[str, bool]:
    """What ranks are, `simulated`, `mpi` or `nccl`, and whether this process is the one that prints.

    MissingDependencyError if there is no MPI; ConfigError if it is not the launcher's, or ranks shall be simulated by
    each of several processes.
    """
    launch = find_launch()
    if ranks == "simulated" and launch is not None and launch.size > 1:
        raise ConfigError(
            f"{launch.size} processes were started, and with --ranks simulated each of them would run all ranks; leave "
            f"it out, or start one process, without a launcher"
        )
    if ranks is None:
        from graphir.backends.registry import find_backend

        # The last is what its ranks are as processes; torchrun starts them for GPUs.
        of_backend = find_backend(backend).ranks[-1]
        ranks = "simulated" if launch is None else "nccl" if launch.master is not None else of_backend
        if ranks == "simulated" and launch is not None and launch.size > 1:
            raise ConfigError(
                f"{launch.size} processes were started, and with --backend {backend} each of them would run all ranks; "
                f"start one process, without a launcher"
            )
    # Alone, a rank on a GPU needs nobody to meet.
    if ranks == "simulated" or (ranks == "nccl" and launch is None):
        return ranks, True
    from graphir.backends.communicator.meeting import peers

    return ranks, peers().rank == 0


def end_ranks(message: str, code: int, cause: BaseException | None = None) -> None:
    """Ends all ranks with `code`, and `message` told once; returns if there are none but this."""
    try:
        launch = find_launch()
    except ConfigError:
        return  # the launcher's variables are what is wrong, so nobody can be met
    if launch is None:
        return
    from graphir.backends.communicator.meeting import peers
    from graphir.backends.communicator.peers import GRACE

    try:
        known = peers()
    except (ConfigError, MissingDependencyError):
        if launch.rank:
            time.sleep(GRACE)  # a launcher may end all when the first ends, and rank 0 has to say why
            raise SystemExit(code) from None
        return
    except CommunicationError:
        return  # nobody has been met
    known.fail(message, code, cause)


def share_processors() -> None:
    """Gives BLAS this rank's share of the processors, unless the user has spoken; before NumPy is loaded."""
    try:
        launch = find_launch()
    except ConfigError:
        return  # told by whatever comes next
    if launch is not None and _THREADS not in os.environ:
        os.environ[_THREADS] = str(launch.share(os.cpu_count() or 1))
