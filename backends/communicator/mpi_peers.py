"""Peers that MPI's launcher has started, and that meet through MPI.

A rank that waits for others in MPI would keep a core busy, and would wait for ever for one that has failed. So every
operation is non-blocking, and is waited for here: the processor is given away between looks, and notes are read. Who is
killed writes no note: that is what the watchdog is for.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from graphir.backends.communicator.peers import MEETING, NAP, Peers
from graphir.backends.communicator.watchdog_client import WatchdogClient
from graphir.errors import CommunicationError, ConfigError, MissingDependencyError
from graphir.extras import install
from graphir.interrupts import break_in
from graphir.ir.layout import Mesh
from graphir.launch import Launch, find_launch

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds of mere yielding, and between looks at notes.
_EAGER, _LOOK = 2e-3, 1e-2
#: Bytes in which fits what a rank needs to come to the watchdog: a token, and the address of a local socket.
_PLACE = 256
#: Bytes of the number that says how long a part is, and of a part that is short.
_HEAD, _SHORT = 8, 4096
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


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends this process at once, also where it waits in C, which Python's own handler would wait for."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    ours = ours and before in (signal.default_int_handler, break_in)
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _padded(place: str) -> bytearray:
    return bytearray(place.encode().ljust(_PLACE, b"\0"))


class MpiPeers(Peers):
    """All processes of `MPI.COMM_WORLD`.

    Errors: as of `load_mpi`; ConfigError, too, if the launcher started more processes than this MPI knows of.
    """

    def __init__(self) -> None:
        super().__init__()
        launch = find_launch()
        seconds = MEETING if launch is None or launch.timeout is None else launch.timeout
        self._watchdog = WatchdogClient()
        # Nobody can wait politely for MPI's own start: who interrupts it ends this process, who comes too late all.
        with _interruptible():
            started = ""
            if launch is not None and launch.size > 1 and launch.number == 0:
                started = self._watchdog.start(launch.rank, seconds)
                self._watchdog.tell(f"rank {os.getpid()} rank {launch.rank}")
            try:
                mpi = load_mpi()
                if launch is not None and mpi.COMM_WORLD.size == 1 < launch.size:
                    raise ConfigError(_alone(launch, mpi.Get_library_version()))
            except (ConfigError, MissingDependencyError):
                self._watchdog.tell("bye")
                raise
            self._all: MPI.Intracomm = mpi.COMM_WORLD
            self.world: MPI.Intracomm = mpi.COMM_WORLD.Dup()
            self.rank, self.size = self.world.rank, self.world.size
            self._notes: MPI.Intracomm = mpi.COMM_WORLD.Dup()
            self._messages: MPI.Intracomm = mpi.COMM_WORLD.Dup()
            self._status, self._any, self._error = mpi.Status(), mpi.ANY_SOURCE, mpi.Exception
            self._byte, self._new_status = mpi.BYTE, mpi.Status
            self._sent: list[MPI.Request] = []
            self._posted: list[tuple[MPI.Request, Any]] = []
            if self.size > 1:
                self._meet_watchdog(mpi, started, seconds)

    # -- the watchdog ----------------------------------------------------------------------------------

    def _meet_watchdog(self, mpi: Any, started: str, seconds: float) -> None:
        """Brings the ranks of this machine to its watchdog, started by one of them, or else by the first."""
        here = self.world.Split_type(mpi.COMM_TYPE_SHARED)
        told = bytearray(_PLACE * here.size)
        here.Allgather(_padded(started), told)
        place = told.strip(b"\0").partition(b"\0")[0]
        if not place:
            place = _padded(self._watchdog.start(self.rank, seconds) if here.rank == 0 else "")
            here.Bcast(place, 0)
        if not self._watchdog.is_connected:
            self._watchdog.connect(place.rstrip(b"\0").decode(), self.rank)
        self._introduce()
        self._watchdog.meet(seconds)
        here.Barrier()
        self._watchdog.tell("met")
        here.Free()

    def name_ranks_by(self, mesh: Mesh) -> None:
        super().name_ranks_by(mesh)
        self._introduce()

    def _introduce(self) -> None:
        self._watchdog.tell(f"rank {os.getpid()} {self.describe(self.rank)}")

    # -- waiting --------------------------------------------------------------------------------------

    def wait(self, request: MPI.Request, purpose: str, status: MPI.Status | None = None) -> None:
        """Returns when `request` is done; errors are those of `until`."""
        begun = time.monotonic()

        def ready() -> bool:
            looked = time.monotonic()
            while not self._test(request, status, purpose):
                now = time.monotonic()
                if now - looked > _LOOK:
                    return False
                _yield() if now - begun < _EAGER else time.sleep(NAP)
            return True

        self.until(ready, purpose)

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
        # In one go what is short, as nearly everything is. And not where other collectives are carried out: who is at
        # one of those waits, and is found.
        sent = np.zeros(_HEAD + _SHORT, np.uint8)
        sent[:_HEAD].view(np.int64)[0] = len(data)
        sent[_HEAD:][: len(data)] = np.frombuffer(data[:_SHORT], np.uint8)
        parts = self._gather(sent, purpose)
        sizes = parts[:, :_HEAD].copy().view(np.int64)[:, 0]
        short = parts[:, _HEAD:]
        longest = int(sizes.max())
        if longest > _SHORT:
            short = self._gather(np.frombuffer(data.ljust(longest, b"\0"), np.uint8), purpose)
        return [part[:size].tobytes() for part, size in zip(short, sizes, strict=True)]

    def _gather(self, sent: Any, purpose: str) -> Any:
        """What all have sent, equally many bytes: [N, bytes]."""
        parts = np.empty((self.size, len(sent)), np.uint8)
        self._wait_for(self._messages.Iallgather(sent, parts), purpose)
        return parts

    def split(self, colour: int, key: int, purpose: str) -> MPI.Comm:
        """MPI's communicator of the ranks that say the same colour, for which it would not wait politely itself."""
        told = self.share(purpose.encode(), purpose)
        for rank, other in enumerate(told):
            if other != told[self.rank]:
                raise CommunicationError(
                    f"{self.describe(self.rank)} is at {purpose}, but {self.describe(rank)} at {other.decode()}; all "
                    f"ranks must run, fetch and gather the same things in the same order"
                )
        return self.world.Split(colour, key)

    def post(self, target: int, data: bytes) -> None:
        self._posted = [(request, kept) for request, kept in self._posted if not request.Test()]
        kept = np.frombuffer(data, np.uint8)
        self._posted.append((self._messages.Isend(kept, target), kept))

    def fetch(self, source: int, purpose: str) -> bytes:
        status = self._new_status()

        def ready() -> bool:
            if self._messages.Iprobe(source, status=status):
                return True
            time.sleep(NAP)
            return False

        self.until(ready, purpose)
        data = np.empty(status.Get_count(self._byte), np.uint8)
        self._wait_for(self._messages.Irecv(data, source), purpose)
        return data.tobytes()

    # -- notes, and ending ----------------------------------------------------------------------------

    def _say(self, word: str, text: str = "") -> None:
        others = (rank for rank in range(self.size) if rank != self.rank)
        note = np.frombuffer(f"{word}\n{text}".encode(errors="backslashreplace"), np.uint8)
        self._sent += [self._notes.Isend(note, rank) for rank in others]

    def _listen(self) -> None:
        while self._notes.Iprobe(self._any, status=self._status):
            source, note = self._status.source, np.empty(self._status.Get_count(self._byte), np.uint8)
            self._notes.Recv(note, source)
            word, _, text = note.tobytes().decode().partition("\n")
            self._hear(source, word, text)

    def _farewell(self, failed: bool) -> None:
        self._watchdog.tell("failed" if failed else "bye")

    def _end_all(self, code: int) -> NoReturn:
        # Of a copy of that communicator, MPICH's launcher may tell another code.
        self._all.Abort(code)
        raise SystemExit(code)


__all__ = ["MpiPeers", "load_mpi"]
