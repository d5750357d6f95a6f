"""One rank a process, through MPI: the collectives of `interface` by mpi4py, for the rank that this process is.

    mpiexec -n 6 python program.py      with a mesh of 6 ranks; rank i of the mesh is process i

Blocks that are C-contiguous are sent from where they are, and received where they belong: an all-reduce with `out` is
done in place there (`MPI.IN_PLACE`), and so are an all-gather and a reduce-scatter of the first dim. Another dim costs
one copy that brings its pieces together.

MPI adds terms in an order of its own, so sums may differ from those of simulated ranks by rounding: the results of N
terms by (N − 1) ε Σ|x_i|. Two kinds of reduction are not left to MPI: its maximum may lose a NaN, and it cannot add
float16 or truths. These are gathered, and reduced in the order of ranks.

Traffic is counted as the best algorithm sends it, a message for each operation: what MPI really does it does not tell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.backends.communicator.interface import (
    Block,
    Communicator,
    Done,
    Pending,
    Traffic,
    averaged,
    reduction,
    resized,
)
from graphir.backends.communicator.meeting import peers
from graphir.backends.communicator.mpi_peers import MpiPeers, load_mpi
from graphir.errors import CommunicationError, ConfigError
from graphir.ir.layout import Mesh

if TYPE_CHECKING:
    from mpi4py import MPI

#: What MPI adds itself.
_SUMMED = frozenset(["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])


@dataclass
class _Group:
    """The ranks that this one communicates with, and its number among them."""

    ranks: tuple[int, ...]
    number: int
    intracomm: MPI.Comm

    @property
    def count(self) -> int:
        return len(self.ranks)


@dataclass
class _Started:
    """A collective under way: `finish` makes its result of what has arrived. It keeps its buffers alive."""

    request: MPI.Request
    peers: MpiPeers
    purpose: str
    finish: Callable[[], Block]
    result: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peers.outstanding += 1

    def poll(self) -> bool:
        return bool(self.result) or bool(self.request.Test())

    def wait(self) -> list[Block]:
        if not self.result:
            self.peers.wait(self.request, self.purpose)
            self.peers.outstanding -= 1
            self.result.append(self.finish())
        return self.result


class MpiCommunicator(Communicator):
    """The rank of `mesh` that this process is.

    Errors: ConfigError if the mesh has not as many ranks as processes were started; RankError, in whatever waits,
    if another rank has failed.
    """

    def __init__(self, mesh: Mesh) -> None:
        found = peers()
        if not isinstance(found, MpiPeers):
            raise ConfigError(
                "ranks='mpi' needs processes that MPI's launcher has started, mpiexec or mpirun; these were started by "
                "RANK, WORLD_SIZE and MASTER_ADDR, as torchrun does, which is for ranks='nccl'"
            )
        self.peers = found
        if mesh.size != self.peers.size:
            raise ConfigError(misfit(mesh, self.peers.size, "mpiexec -n"))
        self.mesh, self.turn = mesh, self.peers.turn
        self.rank = self.peers.rank
        self.ranks = (self.rank,)
        self.traffic = Traffic.none(mesh.size)
        self._mpi = load_mpi()
        self._messages: list[tuple[MPI.Request, Block]] = []
        self.peers.name_ranks_by(mesh)

    # -- collectives ----------------------------------------------------------------------------------

    def all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        return self.start_all_reduce(blocks, axes, reduce, out).wait()

    def start_all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> Pending:
        group, (block,) = self._group(axes), blocks
        purpose = self.purpose("an all-reduce", axes)
        if group.count == 1 or block.size == 0:
            return Done([_put(block, out)])
        if not _adds(block, reduce):
            request, terms = self._gathering(group, block)
            self._count(group, (group.count - 1) * block.nbytes)
            return _Started(request, self.peers, purpose, lambda: _put(reduction(list(terms), reduce), out))
        result = _target(block.shape, block.dtype, out)
        if result is not block:
            np.copyto(result, block)
        request = group.intracomm.Iallreduce(self._mpi.IN_PLACE, result, self._mpi.SUM)
        self._count(group, 2 * (group.count - 1) * block.nbytes // group.count)

        def finish() -> Block:
            if reduce == "mean":
                np.copyto(result, averaged(result, group.count, reduce))
            return result

        return _Started(request, self.peers, purpose, finish)

    def all_gather(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        if group.count == 1:
            return [_put(block, out)]
        shape = resized(block.shape, dim, group.count)
        result = _target(shape, block.dtype, out)
        if block.size:
            pieces = result.reshape(group.count, *block.shape) if dim == 0 else None
            request, parts = self._gathering(group, block, pieces)
            self._count(group, (group.count - 1) * block.nbytes)
            self._wait(request, self.purpose("an all-gather", [axis]))
            if dim:
                np.concatenate(list(parts), axis=dim, out=result)
        return [result]

    def reduce_scatter(
        self, blocks: Sequence[Block], dim: int, axis: str, reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        if group.count == 1 or block.size == 0:
            return [_put(np.split(block, group.count, axis=dim)[group.number], out)]
        pieces = _pieces(block, group.count, dim)
        self._count(group, (group.count - 1) * pieces[0].nbytes)
        purpose = self.purpose("a reduce-scatter", [axis])
        if not _adds(block, reduce):
            return [_put(reduction(list(self._swap(group, pieces, purpose)), reduce), out)]
        result = _target(pieces.shape[1:], block.dtype, out)
        request = group.intracomm.Ireduce_scatter_block(pieces, result, self._mpi.SUM)
        self._wait(request, purpose)
        if reduce == "mean":
            np.copyto(result, averaged(result, group.count, reduce))
        return [result]

    def all_to_all(
        self, blocks: Sequence[Block], source: int, target: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        if group.count == 1:
            return [_put(block, out)]
        pieces = _pieces(block, group.count, target)
        result = _target(resized(pieces.shape[1:], source, group.count), block.dtype, out)
        if block.size:
            self._count(group, (group.count - 1) * pieces[0].nbytes)
            arrived = self._swap(group, pieces, self.purpose("an all-to-all", [axis]))
            np.concatenate(list(arrived), axis=source, out=result)
        return [result]

    def local_slice(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group((axis,)), blocks
        return [_put(np.split(block, group.count, axis=dim)[group.number], out)]

    def broadcast(
        self, blocks: Sequence[Block], axes: Sequence[str], root: int = 0, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, (block,) = self._group(axes), blocks
        if group.count == 1 or block.size == 0:
            return [_put(block, out)]
        result = _target(block.shape, block.dtype, out)
        if group.number == root:
            np.copyto(result, block)
            self._count(group, (group.count - 1) * block.nbytes)
        self._wait(group.intracomm.Ibcast(_bytes(result), root), self.purpose("a broadcast", axes))
        return [result]

    def barrier(self) -> None:
        self._wait(self.peers.world.Ibarrier(), "a barrier")

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        return self.peers.share(data, purpose)

    def finish(self, purpose: str) -> None:
        """Nothing is left to a device."""

    def hurry(self, seconds: float) -> None:
        self.peers.hurry(seconds)

    # -- messages -------------------------------------------------------------------------------------

    def send(self, block: Block, source: int, target: int) -> None:
        self._require_held(source)
        self._messages = [(request, message) for request, message in self._messages if not request.Test()]
        message = np.array(block, order="C")
        if source != target:
            self.traffic.messages[self.rank] += 1
            self.traffic.bytes[self.rank] += message.nbytes
        self._messages.append((self.peers.world.Isend(_bytes(message), target), message))

    def receive(self, source: int, target: int, shape: Sequence[int], dtype: Any) -> Block:
        self._require_held(target)
        result = np.empty(tuple(shape), dtype)
        status = self._mpi.Status()
        request = self.peers.world.Irecv(_bytes(result), source)
        self._wait(request, f"a message of {self.mesh.describe(source)}", status)
        if status.Get_count(self._mpi.BYTE) != result.nbytes:
            raise CommunicationError(
                f"{self.mesh.describe(target)} expects {result.dtype}{list(shape)}, {result.nbytes} bytes, of "
                f"{self.mesh.describe(source)}, which sent {status.Get_count(self._mpi.BYTE)}"
            )
        return result

    def _require_held(self, rank: int) -> None:
        if rank != self.rank:
            raise CommunicationError(f"this process is {self.mesh.describe(self.rank)}, not {self.mesh.describe(rank)}")

    def collect(self, blocks: Sequence[Block]) -> list[Block] | None:
        (block,) = blocks
        sent = np.asarray(block, order="C")
        if sent.size == 0:
            return [sent] * self.mesh.size if self.leads else None
        all = np.empty((self.mesh.size, *sent.shape), sent.dtype) if self.leads else None
        request = self.peers.world.Igather(_bytes(sent), None if all is None else _bytes(all), 0)
        self._wait(request, self.purpose("a collection of all blocks"))
        return None if all is None else list(all)

    # -- by MPI ---------------------------------------------------------------------------------------

    def _group(self, axes: Sequence[str]) -> _Group:
        key = self.mesh, tuple(axes)
        if key not in self.peers.groups:
            ranks = next(group for group in self.mesh.groups(axes) if self.rank in group)
            number = ranks.index(self.rank)
            # All ranks come here in the same order: they run the same graph.
            made = self.peers.split(min(ranks), number, f"the first meeting of the ranks along {' and '.join(axes)}")
            self.peers.groups[key] = _Group(ranks, number, made)
        group: _Group = self.peers.groups[key]
        return group

    def _gathering(self, group: _Group, block: Block, into: Block | None = None) -> tuple[MPI.Request, Block]:
        """The group's blocks under way, and where they arrive: [N, …]."""
        arriving = np.empty((group.count, *block.shape), block.dtype) if into is None else into
        np.copyto(arriving[group.number, ...], block)
        return group.intracomm.Iallgather(self._mpi.IN_PLACE, _bytes(arriving)), arriving

    def _swap(self, group: _Group, pieces: Block, purpose: str) -> Block:
        """Piece i goes to rank number i; what arrives, by who sent it: [N, …]."""
        arriving = np.empty_like(pieces)
        self._wait(group.intracomm.Ialltoall(_bytes(pieces), _bytes(arriving)), purpose)
        return arriving

    def _wait(self, request: MPI.Request, purpose: str, status: MPI.Status | None = None) -> None:
        self.peers.outstanding += 1
        self.peers.wait(request, purpose, status)
        self.peers.outstanding -= 1

    def _count(self, group: _Group, sent: int) -> None:
        self.traffic.messages[self.rank] += 1
        self.traffic.bytes[self.rank] += sent


def _adds(block: Block, reduce: str) -> bool:
    return reduce in ("sum", "mean") and block.dtype.name in _SUMMED


def _bytes(array: Block) -> Block:
    """A C-contiguous array's memory: MPI moves it whatever the dtype."""
    return array.reshape(-1).view(np.uint8)


def _target(shape: Sequence[int], dtype: Any, out: Sequence[Block] | None) -> Block:
    return np.empty(tuple(shape), dtype) if out is None else out[0]


def _put(block: Block, out: Sequence[Block] | None) -> Block:
    if out is None:
        return block
    np.copyto(out[0], block)
    return out[0]


def _pieces(block: Block, count: int, dim: int) -> Block:
    """The parts of a dim one after the other, C-contiguous: [N, …]; of the first dim no copy."""
    if dim == 0:
        return np.ascontiguousarray(block).reshape(count, block.shape[0] // count, *block.shape[1:])
    return np.stack(np.split(block, count, axis=dim))


def misfit(mesh: Mesh, processes: int, start: str) -> str:
    """That a mesh is not of as many ranks as processes were started, and what would fit; `start` is a command."""
    asked = f"{mesh} needs {mesh.size} ranks" if mesh.axes else "without a mesh there is one rank"
    started = f"{processes} processes were started" if processes > 1 else "one process was started"
    fitting = fitting_meshes(mesh, processes)
    or_choose = f", or choose {fitting}" if fitting else ""
    return f"{asked}, but {started}; start it by {start} {mesh.size}{or_choose}"


def fitting_meshes(mesh: Mesh, processes: int) -> str:
    """Meshes of that many ranks with the axes of `mesh`, as a user would ask for them: `dp=2, tp=2 or tp=4`."""
    names = mesh.names or ("dp",)
    divisors = [count for count in range(1, processes + 1) if processes % count == 0]
    found = []
    for counts in itertools.product(divisors, repeat=len(names)):
        if math.prod(counts) == processes:
            named = [f"{name}={count}" for name, count in zip(names, counts, strict=True) if count > 1]
            found.append(", ".join(named) or "one rank")
    return " or ".join(found)


__all__ = ["MpiCommunicator", "fitting_meshes", "misfit"]
