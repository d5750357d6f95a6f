"""Peers that MPI's launcher has started, and that meet through MPI.

A rank that waits for others in MPI would keep a core busy, and would wait for ever for one that has failed. So every
operation is non-blocking, and is waited for here: the processor is given away between looks, and notes are read. Who is
killed writes no note: that is what the witness is for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from graphir.backends.communicator.peers import NAP, Peers
from graphir.errors import CommunicationError, MissingDependencyError
from graphir.ir.layout import Mesh

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds of mere yielding, and between looks at notes.
_EAGER, _LOOK = 2e-3, 1e-2
#: Gives the processor away for a moment; not every system has a call for just that.
_yield = getattr(os, "sched_yield", lambda: time.sleep(0))


def load_mpi() -> Any:
    """mpi4py's module MPI; importing it starts MPI."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise MissingDependencyError(
            f"ranks='mpi' needs mpi4py and an MPI to run on ({error}); pip install 'graphir[mpi]' brings both"
        ) from None
    return MPI


class MpiPeers(Peers):
    """All processes of `MPI.COMM_WORLD`."""

    def __init__(self) -> None:
        super().__init__()
        mpi = load_mpi()
        self.world: MPI.Intracomm = mpi.COMM_WORLD.Dup()
        self.rank, self.size = self.world.rank, self.world.size
        self._notes: MPI.Intracomm = mpi.COMM_WORLD.Dup()
        self._messages: MPI.Intracomm = mpi.COMM_WORLD.Dup()
        self._status, self._any, self._error = mpi.Status(), mpi.ANY_SOURCE, mpi.Exception
        self._byte, self._new_status = mpi.BYTE, mpi.Status
        self._sent: list[MPI.Request] = []
        self._posted: list[tuple[MPI.Request, Any]] = []
        self._connection = self._call_witness(mpi)
        self._introduce()

    # -- the witness ----------------------------------------------------------------------------------

    def _call_witness(self, mpi: Any) -> socket.socket | None:
        """A connection to this machine's witness, which the first of its ranks starts."""
        if self.size == 1:
            return None
        here = self.world.Split_type(mpi.COMM_TYPE_SHARED)
        connection = socket.socket(socket.AF_UNIX)
        folder = Path(here.bcast(tempfile.mkdtemp(prefix="graphir-") if here.rank == 0 else None))
        address = str(folder / "witness")
        if here.rank == 0:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(here.size)
                command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("witness.py"))]
                self._witness = subprocess.Popen(
                    [*command, str(listener.fileno())],
                    pass_fds=[listener.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # the launcher ends whole process groups
                )
        here.Barrier()
        connection.connect(address)
        here.Barrier()
        if here.rank == 0:
            os.unlink(address)
            folder.rmdir()
        here.Free()
        return connection

    def _tell_witness(self, line: str) -> None:
        if self._connection is not None:
            try:
                self._connection.sendall(f"{line}\n".encode())
            except OSError:
                self._connection = None  # it is gone: nobody will be reported, and nothing else is lost

    def stand_in(self, mesh: Mesh) -> None:
        super().stand_in(mesh)
        self._introduce()

    def _introduce(self) -> None:
        self._tell_witness(f"rank {os.getpid()} {self.describe(self.rank)}")

    # -- waiting --------------------------------------------------------------------------------------

    def wait(self, request: MPI.Request, purpose: str, status: MPI.Status | None = None) -> None:
        """Returns when `request` is done; RankError if another rank has failed, so that it never will be."""
        start = looked = time.monotonic()
        while not self._test(request, status, purpose):
            now = time.monotonic()
            if now - start < _EAGER:
                _yield()
                continue
            if now - looked > _LOOK:
                looked = now
                self.check(purpose)
            time.sleep(NAP)

    def _test(self, request: MPI.Request, status: MPI.Status | None, purpose: str) -> bool:
        try:
            return bool(request.Test(status))
        except self._error as error:
            raise CommunicationError(f"{self.describe(self.rank)}, {purpose}: MPI says {error}") from error

    def _wait_for(self, request: MPI.Request, purpose: str) -> None:
        self.outstanding += 1
        self.wait(request, purpose)
        self.outstanding -= 1

    # -- messages -------------------------------------------------------------------------------------

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        sizes, mine = np.empty(self.size, np.int64), np.array([len(data)], np.int64)
        self._wait_for(self.world.Iallgather(mine, sizes), purpose)
        # All parts as long as the longest: these are small, and of one length nearly always.
        length = int(sizes.max())
        parts = np.empty((self.size, length), np.uint8)
        self._wait_for(self.world.Iallgather(np.frombuffer(data.ljust(length, b"\0"), np.uint8), parts), purpose)
        return [part[:size].tobytes() for part, size in zip(parts, sizes, strict=True)]

    def post(self, target: int, data: bytes) -> None:
        self._posted = [(request, kept) for request, kept in self._posted if not request.Test()]
        kept = np.frombuffer(data, np.uint8)
        self._posted.append((self._messages.Isend(kept, target), kept))

    def fetch(self, source: int, purpose: str) -> bytes:
        status = self._new_status()
        while not self._messages.Iprobe(source, status=status):
            self.check(purpose)
            time.sleep(NAP)
        data = np.empty(status.Get_count(self._byte), np.uint8)
        self._wait_for(self._messages.Irecv(data, source), purpose)
        return data.tobytes()

    # -- notes, and ending ----------------------------------------------------------------------------

    def _say(self, word: str, text: str = "") -> None:
        others = (rank for rank in range(self.size) if rank != self.rank)
        self._sent += [self._notes.isend((word, text), rank) for rank in others]

    def _listen(self) -> None:
        while self._notes.iprobe(self._any, status=self._status):
            source = self._status.source
            self._hear(source, *self._notes.recv(source=source))

    def _farewell(self, failed: bool) -> None:
        self._tell_witness("failed" if failed else "bye")

    def _end_all(self, code: int) -> NoReturn:
        self.world.Abort(code)
        raise SystemExit(code)


__all__ = ["MpiPeers", "load_mpi"]
