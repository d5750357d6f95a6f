"""A stand-in for `cupy.cuda.nccl`: ranks are threads of one process, and pointers lead to the host's memory.

As in NCCL, a group is made by as many threads as its size, with one id; each operation of a group is the same on all
its ranks, which is checked, as NCCL does not; a maximum loses a NaN; there is no type for truths; and what is sent
waits for its receiver, unless both are in one `groupStart` … `groupEnd`. A rank that waits longer than `PATIENCE`
seconds gets an error, where NCCL would wait for ever. Operations are handed to `enqueue`, the current stream.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError:  # then nothing is of this dtype
    bfloat16 = None

available = True


def enqueue(work: Callable[[], None]) -> None:
    """Hands work to the current stream; here, carries it out."""
    work()


NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = range(6)
NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_BFLOAT16 = 6, 7, 8, 9
NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)

#: Seconds that a rank waits for the others of its group.
PATIENCE = 60.0
#: Whether ids are bytes, as since CuPy 14, or tuples of C's chars, as before.
IDS_ARE_BYTES = True

_TYPES = {
    NCCL_INT8: np.int8,
    NCCL_UINT8: np.uint8,
    NCCL_INT32: np.int32,
    NCCL_UINT32: np.uint32,
    NCCL_INT64: np.int64,
    NCCL_UINT64: np.uint64,
    NCCL_FLOAT16: np.float16,
    NCCL_FLOAT32: np.float32,
    NCCL_FLOAT64: np.float64,
    NCCL_BFLOAT16: bfloat16,
}
_COMBINE: dict[int, Callable[[Any, Any], Any]] = {NCCL_SUM: np.add, NCCL_MAX: np.fmax, NCCL_MIN: np.fmin}


class NcclError(RuntimeError):
    """What NCCL complains of."""


@dataclass
class _Clique:
    """The ranks that have come together under one id, what each brings to each operation, and what is sent."""

    size: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    came: set[int] = field(default_factory=set)
    brought: dict[int, dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))
    taken: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    sent: dict[tuple[int, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    broken: str = ""

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """With `changed` held."""
        if not self.changed.wait_for(lambda: until() or bool(self.broken), PATIENCE):
            self.broken = f"NCCL_ERROR_INTERNAL_ERROR: waited in vain for {what}"
        if self.broken:
            self.changed.notify_all()
            raise NcclError(self.broken)


_cliques: dict[Any, _Clique] = {}
_lock = threading.Lock()
_numbers = itertools.count(1)
_local = threading.local()


def get_version() -> int:
    return 22707


def get_build_version() -> int:
    return 22707


def get_unique_id() -> bytes | tuple[int, ...]:
    """128 bytes that nobody else has; as C's chars some of them are negative."""
    unique = next(_numbers).to_bytes(8, "little") + bytes(range(136, 256))
    return unique if IDS_ARE_BYTES else tuple(byte - 256 if byte > 127 else byte for byte in unique)


def groupStart() -> None:
    _local.depth = getattr(_local, "depth", 0) + 1


def groupEnd() -> None:
    """Carries out what was called since `groupStart`: all is sent before anything is waited for."""
    _local.depth -= 1
    if _local.depth:
        return
    pending, _local.pending = getattr(_local, "pending", []), []

    def carry_out() -> None:
        for kind in ("send", "recv", "sent"):
            for step, run in pending:
                if step == kind:
                    run()

    enqueue(carry_out)


def _do(kind: str, run: Callable[[], None]) -> None:
    if getattr(_local, "depth", 0):
        _local.pending = [*getattr(_local, "pending", []), (kind, run)]
    else:
        enqueue(run)


class NcclCommunicator:
    """One thread's rank in a group; made when all threads of the group have come."""

    def __init__(self, ndev: int, commId: bytes | tuple[int, ...], rank: int, config: None = None) -> None:
        if type(commId) is not (bytes if IDS_ARE_BYTES else tuple):
            raise TypeError(f"Argument 'commId' has incorrect type (got {type(commId).__name__})")
        if len(commId) != 128:
            raise AssertionError("an id has 128 bytes")
        with _lock:
            self._clique = _cliques.setdefault(commId, _Clique(ndev))
        self._rank, self._count = rank, 0
        with self._clique.changed:
            assert self._clique.size == ndev, "ranks disagree about their number"
            assert rank not in self._clique.came, f"rank {rank} has come twice"
            self._clique.came.add(rank)
            self._clique.changed.notify_all()
            self._clique.wait(lambda: len(self._clique.came) == ndev, f"{ndev} ranks; there came {self._clique.came}")

    def size(self) -> int:
        return self._clique.size

    def rank_id(self) -> int:
        return self._rank

    def check_async_error(self) -> None:
        if self._clique.broken:
            raise NcclError(self._clique.broken)

    def abort(self) -> None:
        """Ends what the others wait for."""
        with self._clique.changed:
            self._clique.broken = "NCCL_ERROR_REMOTE: a rank has aborted"
            self._clique.changed.notify_all()

    def destroy(self) -> None: ...

    # -- collectives ----------------------------------------------------------------------------------

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        def run() -> None:
            terms = self._exchange(("allReduce", count, datatype, op), _read(sendbuf, count, datatype))
            _write(recvbuf, _reduced(terms, op))

        enqueue(run)

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:
        def run() -> None:
            mine = _read(sendbuf, recvcount * self.size(), datatype)
            terms = self._exchange(("reduceScatter", recvcount, datatype, op), mine)
            _write(recvbuf, _reduced(terms, op)[self._rank * recvcount : (self._rank + 1) * recvcount])

        enqueue(run)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        def run() -> None:
            parts = self._exchange(("allGather", count, datatype), _read(sendbuf, count, datatype))
            _write(recvbuf, np.concatenate(parts))

        enqueue(run)

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        def run() -> None:
            mine = _read(sendbuff, count, datatype) if self._rank == root else None
            _write(recvbuff, self._exchange(("broadcast", count, datatype, root), mine)[root])

        enqueue(run)

    def _exchange(self, operation: tuple[Any, ...], data: Any) -> list[Any]:
        """What all ranks bring to this operation."""
        number, self._count = self._count, self._count + 1
        clique = self._clique
        with clique.changed:
            brought = clique.brought[number]
            brought[self._rank] = operation, data
            clique.changed.notify_all()
            clique.wait(lambda: len(brought) == clique.size, f"{operation}, to which came {sorted(brought)}")
            operations = {each for each, _ in brought.values()}
            assert len(operations) == 1, f"ranks do different things at once: {operations}"
            clique.taken[number] += 1
            if clique.taken[number] == clique.size:
                del clique.brought[number], clique.taken[number]
        return [brought[rank][1] for rank in range(clique.size)]

    # -- from rank to rank ----------------------------------------------------------------------------

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        letters, changed = self._clique.sent[self._rank, peer], self._clique.changed

        def send() -> None:
            with changed:
                letters.append(_read(sendbuf, count, datatype).tobytes())
                changed.notify_all()

        def wait() -> None:
            with changed:
                self._clique.wait(lambda: not letters, f"rank {peer} to receive what {self._rank} sends")

        _do("send", send)
        _do("sent", wait)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        letters, changed = self._clique.sent[peer, self._rank], self._clique.changed

        def receive() -> None:
            with changed:
                self._clique.wait(lambda: bool(letters), f"what rank {peer} sends to {self._rank}")
                data = letters.pop(0)
                changed.notify_all()
            assert len(data) == count * np.dtype(_TYPES[datatype]).itemsize, "another number than was sent"
            ctypes.memmove(recvbuf, data, len(data))

        _do("recv", receive)


def _read(pointer: int, count: int, datatype: int) -> Any:
    dtype = np.dtype(_TYPES[datatype])
    return np.frombuffer(ctypes.string_at(pointer, count * dtype.itemsize), dtype)


def _write(pointer: int, array: Any) -> None:
    data = array.tobytes()
    ctypes.memmove(pointer, data, len(data))


def _reduced(terms: list[Any], op: int) -> Any:
    total = terms[-1]
    for each in reversed(terms[:-1]):  # in an order that is not the ranks'
        total = _COMBINE[op](total, each)
    return total
