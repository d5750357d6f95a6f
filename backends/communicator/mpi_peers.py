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
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from graphir.backends.communicator.peers import NAP, Peers
from graphir.errors import CommunicationError, ConfigError, MissingDependencyError
from graphir.extras import install
from graphir.ir.layout import Mesh
from graphir.launch import Launch, find_launch

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds of mere yielding, and between looks at notes.
_EAGER, _LOOK = 2e-3, 1e-2
#: Gives the processor away for a moment; not every system has a call for just that.
_yield = getattr(os, "sched_yield", lambda: time.sleep(0))


def load_mpi() -> Any:
    """mpi4py's module MPI, with MPI started.

    Errors: MissingDependencyError without mpi4py or an MPI for it; ConfigError if that MPI is not the launcher's.
    """
    try:
        import mpi4py

        # MPICH's start under another launcher may abort the process, before anything could be said.
        mpi4py.rc(initialize=False, finalize=True)
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise MissingDependencyError(
            f"ranks='mpi' needs mpi4py and an MPI to run on ({why}); {install('mpi')} brings both, or let "
            f"the system bring an MPI"
        ) from None
    if not MPI.Is_initialized():
        launch = find_launch()
        if launch is not None and is_another(launch.launcher, MPI.Get_library_version()):
            raise ConfigError(_alone(launch, MPI.Get_library_version()))
        with warnings.catch_warnings():
            # mpi4py guesses at a launcher that does not fit: here that is an error, told once.
            warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


def is_another(launcher: str, library: str) -> bool:
    """Whether a launcher is known not to bring together ranks of that MPI: Open MPI's and an MPICH not built for it."""
    return launcher == "Open MPI" and library.startswith("MPICH") and "pmix" not in library.lower()


def _alone(launch: Launch, library: str) -> str:
    """That those whom `launch` brought together do not find each other by that MPI."""
    name = " ".join(library.partition("\n")[0].partition(",")[0].replace("Version:", "").split())
    beside = Path(sys.executable).with_name("mpiexec")
    own = f" ({beside})" if beside.is_file() else ""
    return (
        f"{launch.size} processes were started, but for the MPI that mpi4py has found, {name}, each of them is alone: "
        f"they were started by the launcher of another MPI; use the mpiexec of {name}{own}, or an mpi4py for the other"
    )


class MpiPeers(Peers):
    """All processes of `MPI.COMM_WORLD`.

    Errors: as of `load_mpi`; ConfigError, too, if the launcher started more processes than this MPI knows of.
    """

    def __init__(self) -> None:
        super().__init__()
        mpi, launch = load_mpi(), find_launch()
        if launch is not None and mpi.COMM_WORLD.size == 1 < launch.size:
            raise ConfigError(_alone(launch, mpi.Get_library_version()))
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
