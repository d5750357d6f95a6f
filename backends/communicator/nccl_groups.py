"""Groups of ranks under NCCL: how they come together, and how NCCL is spoken to; the collectives are in `nccl`."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graphir.backends.communicator.interface import Block
from graphir.backends.communicator.meeting import peers_by
from graphir.backends.communicator.peers import Peers
from graphir.backends.machine import identity
from graphir.errors import CommunicationError, ConfigError
from graphir.ir.layout import Mesh
from graphir.launch import find_launch

#: What NCCL adds and compares, by its own names.
_TYPES = {
    "float16": "NCCL_FLOAT16",
    "bfloat16": "NCCL_BFLOAT16",
    "float32": "NCCL_FLOAT32",
    "float64": "NCCL_FLOAT64",
    "int8": "NCCL_INT8",
    "int32": "NCCL_INT32",
    "int64": "NCCL_INT64",
    "uint8": "NCCL_UINT8",
    "uint32": "NCCL_UINT32",
    "uint64": "NCCL_UINT64",
    "bool": "NCCL_UINT8",
}
FLOATS = frozenset(["float16", "bfloat16", "float32", "float64"])


@dataclass
class Group:
    """The ranks that this one communicates with, its number among them, and NCCL's communicator; None for one alone."""

    ranks: tuple[int, ...]
    number: int
    nccl: Any

    @property
    def count(self) -> int:
        return len(self.ranks)


class Groups:
    """The groups of `mesh` that a rank belongs to, made when they are first asked for, once for a process."""

    def __init__(self, nccl: Any, mesh: Mesh, peers: Peers) -> None:
        self._nccl, self._mesh, self._peers = nccl, mesh, peers

    def along(self, axes: Sequence[str]) -> Group:
        """The ranks that differ from this one along these axes only."""
        ranks = next(tuple(group) for group in self._mesh.groups(axes) if self._peers.rank in group)
        groups = self._peers.groups
        if ranks not in groups:
            # All ranks come here in the same order: they run the same graph.
            number, name = ranks.index(self._peers.rank), " and ".join(axes)
            nccl = None
            if len(ranks) > 1:
                mine = _packed(self._nccl.get_unique_id()) if number == 0 else b""
                ids = self._peers.share(mine, f"the ranks along {name}")
                # With a communicator that another rank has not left, this process cannot end by itself.
                self._peers.outstanding += 1
                with self._errors_named(f"beginning with the ranks along {name}"):
                    nccl = self._nccl.NcclCommunicator(len(ranks), _unpacked(ids[ranks[0]]), number)
            groups[ranks] = Group(ranks, number, nccl)
        group: Group = groups[ranks]
        return group

    @contextmanager
    def using(self, group: Group, purpose: str) -> Iterator[Any]:
        """The group's communicator, for operations that are begun inside."""
        self._peers.check(purpose)
        with self._errors_named(purpose):
            group.nccl.check_async_error()
            yield group.nccl

    @contextmanager
    def _errors_named(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except self._nccl.NcclError as error:
            raise CommunicationError(
                f"{self._mesh.describe(self._peers.rank)}, {purpose}: NCCL says {error}; NCCL_DEBUG=WARN makes it say "
                f"more"
            ) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is sent and received inside is one operation, whatever its order."""
        self._nccl.groupStart()
        try:
            yield
        finally:
            self._nccl.groupEnd()

    def reduction(self, block: Block, reduce: str) -> tuple[int, int] | None:
        """NCCL's type and operator; None for what it cannot reduce, or not as NumPy does."""
        name = block.dtype.name
        if name not in _TYPES or (reduce == "max" and name in FLOATS):
            return None
        op = self._nccl.NCCL_MAX if reduce == "max" or name == "bool" else self._nccl.NCCL_SUM
        return getattr(self._nccl, _TYPES[name]), op


def find_peers() -> Peers:
    """The peers that the launcher's kind asks for; this process alone if it was started alone, without any MPI."""
    launch = find_launch()
    return peers_by("mpi" if launch is not None and launch.master is None else "tcp")


def take_device(cupy: Any, peers: Peers, device: int | None) -> None:
    """Makes this process's GPU the current one. ConfigError unless each process has a GPU of its own."""
    if "device" in peers.groups:
        cupy.cuda.Device(peers.groups["device"]).use()
        return
    launch, count = find_launch(), cupy.cuda.runtime.getDeviceCount()
    wanted = (0 if launch is None else launch.number) if device is None else device
    # A launcher may show each process one device only, its own.
    chosen = wanted % count
    bus = cupy.cuda.Device(chosen).pci_bus_id
    where = peers.share(f"{identity()} {bus}".encode(), "every rank's device")
    same = [rank for rank in range(peers.size) if where[rank] == where[peers.rank]]
    if len(same) > 1:
        machine = socket.gethostname()
        raise ConfigError(
            f"ranks {', '.join(map(str, same))} are all on one device, {bus} of {machine}, which shows each of them "
            f"{count}; NCCL needs one for each rank: start no more processes on a machine than it has devices, and let "
            f"LOCAL_RANK count them"
        )
    peers.groups["device"] = chosen
    cupy.cuda.Device(chosen).use()


def _packed(unique: bytes | tuple[int, ...]) -> bytes:
    """A group's id as it travels. CuPy 14 has it as bytes; before that it was a tuple of C's chars."""
    if isinstance(unique, bytes):
        return b"b" + unique
    return b"t" + bytes(number % 256 for number in unique)


def _unpacked(packed: bytes) -> bytes | tuple[int, ...]:
    if packed[:1] == b"b":
        return packed[1:]
    return tuple(number - 256 if number > 127 else number for number in packed[1:])


__all__ = ["FLOATS", "Group", "Groups", "find_peers", "take_device"]
