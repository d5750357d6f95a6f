"""One rank a process and a GPU, through NCCL: the collectives of `interface`, for the rank that this process is.

    torchrun --no-python --nproc-per-node 2 graphir train --backend cupy --tp 2
    mpiexec -n 2 graphir train --backend cupy --ranks nccl --tp 2

Blocks are on the device, and everything is done there, in order on the current stream; nothing waits for the host. A
started all-reduce goes on on a stream of its own, and waiting for it makes the current stream wait. NumPy's blocks are
taken as well: they travel to the device and back. Processes find each other, and exchange what names a group, by
`peers`; there messages from rank to rank travel, too, because NCCL's own wait for their receiver.

NCCL adds terms in an order of its own, so sums may differ from those of simulated ranks by rounding, as under MPI; all
ranks of a group end with the same bits. Its maximum may lose a NaN, so that of floats is gathered, and reduced in the
order of ranks. It knows no truths: as bytes, their sum and their maximum are one. A mean is a sum, divided.

What does not lie as NCCL reads or writes it passes through a buffer that is kept, so that nothing is allocated while a
stream is captured. Traffic is counted as the best algorithm sends it, a message for each operation.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir.backends.arrays import is_on_device
from graphir.backends.communicator.interface import (
    Block,
    Communicator,
    Done,
    Pending,
    Traffic,
    array_kind,
    require_fit,
    resized,
)
from graphir.backends.communicator.mpi import misfit
from graphir.backends.communicator.nccl_blocks import DeviceBlocks, address, parted, put, to_host
from graphir.backends.communicator.nccl_groups import Group, Groups, find_peers, take_device
from graphir.backends.communicator.peers import NAP, Peers
from graphir.backends.device import require_device
from graphir.errors import CommunicationError, ConfigError, MissingDependencyError
from graphir.extras import install
from graphir.ir.layout import Mesh


@dataclass
class _Started:
    """A reduction on its way on another stream, until an event there."""

    result: Block
    event: Any
    current: Callable[[], Any]

    def poll(self) -> bool:
        return bool(self.event.done)

    def wait(self) -> list[Block]:
        """Makes the current stream wait; the host goes on."""
        self.current().wait_event(self.event)
        return [self.result]


class NcclCommunicator(Communicator):
    """The rank of `mesh` that this process is, on the GPU that is its own; made the current device.

    Errors: ConfigError if the mesh has not as many ranks as processes were started, or there are fewer GPUs than
    processes; MissingDependencyError or DeviceError without CuPy, NCCL or a GPU; RankError, in whatever begins, if
    another rank has failed; CommunicationError if NCCL says that something went wrong.
    """

    def __init__(self, mesh: Mesh, peers: Peers | None = None, device: int | None = None) -> None:
        self._cupy = require_device()
        # No attribute of `cupy.cuda` before somebody imports it.
        self._nccl = importlib.import_module("cupy.cuda.nccl")
        if not self._nccl.available:
            raise MissingDependencyError(
                f"ranks='nccl' needs NCCL, and CuPy finds none; {install('cuda12')}, or {install('cuda13')}, "
                "whichever CUDA CuPy is for"
            )
        self.peers = peers or find_peers()
        if mesh.size != self.peers.size:
            raise ConfigError(misfit(mesh, self.peers.size, "torchrun --nproc-per-node"))
        self.mesh, self.turn = mesh, self.peers.turn
        self.rank = self.peers.rank
        self.ranks = (self.rank,)
        self.traffic = Traffic.none(mesh.size)
        self._blocks = DeviceBlocks(self._cupy)
        self.peers.name_ranks_by(mesh)
        take_device(self._cupy, self.peers, device)
        self._groups = Groups(self._nccl, mesh, self.peers)
        # Reductions that overlap use another group's communicator at the same time; by this, NCCL starts what is
        # begun on one device in the order of the program, which all ranks share.
        os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")

    # -- collectives ----------------------------------------------------------------------------------

    def all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, purpose = self._groups.along(axes), self.purpose("an all-reduce", axes)

        def run(block: Block, into: Block | None) -> Block:
            if group.count == 1 or block.size == 0:
                return put(block, into)
            kind = self._groups.reduction(block, reduce)
            if kind is None:
                self._count(group, (group.count - 1) * block.nbytes)
                terms = self._gather(group, block, purpose)
                return self._blocks.reduce(terms, reduce, self._blocks.target(block.shape, block.dtype, into))
            return self._add(group, block, reduce, kind, into, self._current_stream(), purpose)

        return self._blocks.carry_out(blocks, out, run)

    def start_all_reduce(
        self, blocks: Sequence[Block], axes: Sequence[str], reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> Pending:
        group, (block,) = self._groups.along(axes), blocks
        on_device = is_on_device(block)
        kind = self._groups.reduction(block, reduce)
        if not on_device or group.count == 1 or block.size == 0 or kind is None:
            return Done(self.all_reduce(blocks, axes, reduce, out))
        into = self._blocks.target(block.shape, block.dtype, None if out is None else out[0])
        side = self._side_stream()
        ready = self._event()
        ready.record(self._current_stream())
        side.wait_event(ready)
        with side:
            self._add(group, block, reduce, kind, into, side, self.purpose("an all-reduce", axes))
        done = self._event()
        done.record(side)
        return _Started(into, done, self._current_stream)

    def all_gather(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, purpose = self._groups.along((axis,)), self.purpose("an all-gather", [axis])

        def run(block: Block, into: Block | None) -> Block:
            if group.count == 1:
                return put(block, into)
            shape = resized(block.shape, dim, group.count)
            result = self._blocks.target(shape, block.dtype, into)
            if block.size:
                self._count(group, (group.count - 1) * block.nbytes)
                arriving = result.reshape(group.count, *block.shape) if dim == 0 else None
                parts = self._gather(group, block, purpose, arriving)
                if dim:
                    parted(result, dim, group.count)[...] = parts
            return result

        return self._blocks.carry_out(blocks, out, run)

    def reduce_scatter(
        self, blocks: Sequence[Block], dim: int, axis: str, reduce: str = "sum", out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, purpose = self._groups.along((axis,)), self.purpose("a reduce-scatter", [axis])

        def run(block: Block, into: Block | None) -> Block:
            if group.count == 1 or block.size == 0:
                return put(parted(block, dim, group.count)[group.number, ...], into)
            pieces = self._blocks.pieces(block, dim, group.count)
            result = self._blocks.target(pieces.shape[1:], block.dtype, into)
            self._count(group, (group.count - 1) * result.nbytes)
            kind = self._groups.reduction(block, reduce)
            if kind is None:
                return self._blocks.reduce(self._swap(group, pieces, purpose), reduce, result)
            with self._groups.using(group, purpose) as nccl:
                nccl.reduceScatter(address(pieces), address(result), result.size, *kind, self._current_stream().ptr)
            return self._blocks.average(result, group.count, reduce)

        return self._blocks.carry_out(blocks, out, run)

    def all_to_all(
        self, blocks: Sequence[Block], source: int, target: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, purpose = self._groups.along((axis,)), self.purpose("an all-to-all", [axis])

        def run(block: Block, into: Block | None) -> Block:
            if group.count == 1:
                return put(block, into)
            pieces = self._blocks.pieces(block, target, group.count)
            result = self._blocks.target(resized(pieces.shape[1:], source, group.count), block.dtype, into)
            if block.size:
                self._count(group, (group.count - 1) * pieces[0, ...].nbytes)
                parted(result, source, group.count)[...] = self._swap(group, pieces, purpose)
            return result

        return self._blocks.carry_out(blocks, out, run)

    def local_slice(
        self, blocks: Sequence[Block], dim: int, axis: str, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group = self._groups.along((axis,))

        def run(block: Block, into: Block | None) -> Block:
            return put(parted(block, dim, group.count)[group.number, ...], into)

        return self._blocks.carry_out(blocks, out, run)

    def broadcast(
        self, blocks: Sequence[Block], axes: Sequence[str], root: int = 0, out: Sequence[Block] | None = None
    ) -> list[Block]:
        group, purpose = self._groups.along(axes), self.purpose("a broadcast", axes)

        def run(block: Block, into: Block | None) -> Block:
            if group.count == 1 or block.size == 0:
                return put(block, into)
            result = self._blocks.target(block.shape, block.dtype, into)
            if group.number == root:
                result[...] = block
                self._count(group, (group.count - 1) * block.nbytes)
            with self._groups.using(group, purpose) as nccl:
                here = address(result)
                nccl.broadcast(here, here, result.nbytes, self._nccl.NCCL_UINT8, root, self._current_stream().ptr)
            return result

        return self._blocks.carry_out(blocks, out, run)

    def barrier(self) -> None:
        self.peers.share(b"", "a barrier")

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        return self.peers.share(data, purpose)

    def finish(self, purpose: str) -> None:
        done = self._event()
        done.record(self._current_stream())

        def ready() -> bool:
            if done.done:
                return True
            time.sleep(NAP)
            return False

        # CuPy would wait in C, where no signal is heard and no note of another rank read.
        self.peers.until(ready, purpose)

    def hurry(self, seconds: float) -> None:
        self.peers.hurry(seconds)

    # -- messages -------------------------------------------------------------------------------------

    def send(self, block: Block, source: int, target: int) -> None:
        self._require_held(source)
        message = to_host(block)
        if source != target:
            self.traffic.messages[self.rank] += 1
            self.traffic.bytes[self.rank] += message.nbytes
        self.peers.post(target, array_kind(message.shape, message.dtype).encode() + b"\n" + message.tobytes())

    def receive(self, source: int, target: int, shape: Sequence[int], dtype: Any) -> Block:
        self._require_held(target)
        head, _, data = self.peers.fetch(source, f"a message of {self.mesh.describe(source)}").partition(b"\n")
        require_fit(head.decode(errors="replace"), array_kind(shape, dtype), self.mesh, source, target)
        result: Block = self._cupy.asarray(np.frombuffer(data, dtype).reshape(shape))
        return result

    def _require_held(self, rank: int) -> None:
        if rank != self.rank:
            raise CommunicationError(f"this process is {self.mesh.describe(self.rank)}, not {self.mesh.describe(rank)}")

    # -- for the process as a whole -------------------------------------------------------------------

    def collect(self, blocks: Sequence[Block]) -> list[Block] | None:
        group, (block,) = self._groups.along(self.mesh.names), blocks
        on_device = is_on_device(block)
        if group.count == 1 or block.size == 0:
            return [block] * self.mesh.size if self.leads else None
        sent = self._blocks.contiguous(self._cupy.asarray(block))
        stream, kind = self._current_stream().ptr, self._nccl.NCCL_UINT8
        arriving = {rank: self._cupy.empty_like(sent) for rank in group.ranks if self.leads and rank != self.rank}
        with self._groups.using(group, self.purpose("a collection of all blocks")) as nccl, self._groups.together():
            if not self.leads:
                nccl.send(address(sent), sent.nbytes, kind, group.ranks.index(0), stream)
            for rank, target in arriving.items():
                nccl.recv(address(target), target.nbytes, kind, group.ranks.index(rank), stream)
        if not self.leads:
            return None
        found = [arriving.get(rank, sent) for rank in range(self.mesh.size)]
        return found if on_device else [to_host(each) for each in found]

    def agree(self, number: int) -> int:
        return max(int(each) for each in self.peers.share(str(number).encode(), "the agreement on a number"))

    # -- by NCCL --------------------------------------------------------------------------------------

    def _add(
        self,
        group: Group,
        block: Block,
        reduce: str,
        kind: tuple[int, int],
        into: Block | None,
        stream: Any,
        purpose: str,
    ) -> Block:
        """The sum, maximum or mean, by NCCL on that stream, which is the current one."""
        result = self._blocks.target(block.shape, block.dtype, into)
        sent = block
        if not block.flags.c_contiguous:
            result[...] = block
            sent = result
        self._count(group, 2 * (group.count - 1) * block.nbytes // group.count)
        with self._groups.using(group, purpose) as nccl:
            nccl.allReduce(address(sent), address(result), result.size, *kind, stream.ptr)
        return self._blocks.average(result, group.count, reduce)

    def _gather(self, group: Group, block: Block, purpose: str, into: Block | None = None) -> Block:
        """The group's blocks: [N, …]."""
        sent = self._blocks.contiguous(block)
        arriving = self._blocks.buffer("gathered", (group.count, *block.shape), block.dtype) if into is None else into
        with self._groups.using(group, purpose) as nccl:
            kind, stream = self._nccl.NCCL_UINT8, self._current_stream().ptr
            nccl.allGather(address(sent), address(arriving), sent.nbytes, kind, stream)
        return arriving

    def _swap(self, group: Group, pieces: Block, purpose: str) -> Block:
        """Piece i goes to rank number i; what arrives, by who sent it: [N, …]."""
        arriving = self._blocks.buffer("swapped", pieces.shape, pieces.dtype)
        size, kind, stream = pieces[0, ...].nbytes, self._nccl.NCCL_UINT8, self._current_stream().ptr
        with self._groups.using(group, purpose) as nccl, self._groups.together():
            for number in range(group.count):
                nccl.send(address(pieces) + number * size, size, kind, number, stream)
                nccl.recv(address(arriving) + number * size, size, kind, number, stream)
        return arriving

    # -- streams --------------------------------------------------------------------------------------

    def _current_stream(self) -> Any:
        return self._cupy.cuda.get_current_stream()

    def _event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)

    def _side_stream(self) -> Any:
        """The stream of what was started and goes on: one for all communicators of the process."""
        if "stream" not in self.peers.groups:
            self.peers.groups["stream"] = self._cupy.cuda.Stream(non_blocking=True)
        return self.peers.groups["stream"]

    def _count(self, group: Group, sent: int) -> None:
        self.traffic.messages[self.rank] += 1
        self.traffic.bytes[self.rank] += sent


__all__ = ["NcclCommunicator"]
