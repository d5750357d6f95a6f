"""Ranks as processes that depend on each other: politely waiting, and ending together.

A rank that waits for others in MPI would keep a core busy, and would wait for ever for one that has failed. So every
operation is non-blocking, and is waited for here: the processor is given away between looks, and *notes* are read, by
which ranks tell each other that they end:

    failed    an error ended it; the text says which
    followed  it has read that another failed, and ends, too
    left      its program has come to its end

An error that all ranks raise alike (an option that cannot be) is told once; of one that a few raise, each is told with
its rank. All then exit with its code. Who is killed writes no note: that is what the witness is for.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from graphir.errors import CommunicationError, MissingDependencyError
from graphir.ir.layout import Mesh

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds that a failed rank waits for the others' notes before it ends them.
GRACE = 2.0
#: Seconds that a rank goes on waiting for what others begin when one of them has left.
PATIENCE = 30.0
#: Seconds of mere yielding, between looks at notes, and of sleep between looks at a request.
_EAGER, _LOOK, _NAP = 2e-3, 1e-2, 2e-4
#: Gives the processor away for a moment; not every system has a call for just that.
_yield = getattr(os, "sched_yield", lambda: time.sleep(0))


class RankError(CommunicationError):
    """Another rank has failed, and tells why; this one only follows."""


@cache
def peers() -> Peers:
    """This process's peers; the first call, on all ranks, starts MPI.

    MissingDependencyError if there is no mpi4py, or no MPI that it finds.
    """
    return Peers()


def find_peers() -> Peers | None:
    """The peers, if this process has got to know them."""
    return peers() if peers.cache_info().currsize else None


def load_mpi() -> Any:
    """mpi4py's module MPI; importing it starts MPI."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise MissingDependencyError(
            f"ranks='mpi' needs mpi4py and an MPI to run on ({error}); pip install 'graphir[mpi]' brings both"
        ) from None
    return MPI


class Peers:
    """All processes that were started together."""

    def __init__(self) -> None:
        mpi = load_mpi()
        self.world: MPI.Intracomm = mpi.COMM_WORLD.Dup()
        self.rank, self.size = self.world.rank, self.world.size
        #: Operations begun and not done: with one of them MPI cannot come to an orderly end.
        self.outstanding = 0
        #: Ranks that communicate, by mesh and axes: MPI can make only so many groups.
        self.groups: dict[tuple[Mesh, tuple[str, ...]], Any] = {}
        self._notes: MPI.Intracomm = mpi.COMM_WORLD.Dup()
        self._status, self._any, self._error = mpi.Status(), mpi.ANY_SOURCE, mpi.Exception
        self._sent: list[MPI.Request] = []
        self._heard: dict[int, tuple[str, str]] = {}
        self._mesh: Mesh | None = None
        self._ending = False
        self._left_at: float | None = None
        self._connection = self._call_witness(mpi)
        self._introduce()
        self._usual_hook = sys.excepthook
        sys.excepthook = self._uncaught
        atexit.register(self._leave)

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
        """From now on ranks are described as those of `mesh`."""
        self._mesh = mesh
        self._introduce()

    def _introduce(self) -> None:
        self._tell_witness(f"rank {os.getpid()} {self.describe(self.rank)}")

    def describe(self, rank: int) -> str:
        """`rank 2`, and where it stands, once there is a mesh: `rank 2 (dp=0, tp=2)`."""
        return f"rank {rank}" if self._mesh is None or not self._mesh.axes else self._mesh.describe(rank)

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
                self._listen()
                self._require_all(purpose)
            time.sleep(_NAP)

    def _test(self, request: MPI.Request, status: MPI.Status | None, purpose: str) -> bool:
        try:
            return bool(request.Test(status))
        except self._error as error:
            raise CommunicationError(f"{self.describe(self.rank)}, {purpose}: MPI says {error}") from error

    def _require_all(self, purpose: str) -> None:
        for rank, (word, text) in self._heard.items():
            if word == "failed":
                raise RankError(f"{self.describe(rank)} has failed: {text}")
            if word == "left" and self._left_at is not None and time.monotonic() - self._left_at > PATIENCE:
                raise CommunicationError(
                    f"{self.describe(self.rank)} waits for {purpose}, but {self.describe(rank)} has come to the end of "
                    f"its program; all ranks must run, fetch and gather the same things in the same order"
                )

    # -- notes ----------------------------------------------------------------------------------------

    def _say(self, word: str, text: str = "") -> None:
        others = (rank for rank in range(self.size) if rank != self.rank)
        self._sent += [self._notes.isend((word, text), rank) for rank in others]

    def _listen(self) -> None:
        while self._notes.iprobe(self._any, status=self._status):
            source = self._status.source
            self._heard[source] = self._notes.recv(source=source)
            if self._left_at is None and self._heard[source][0] == "left":
                self._left_at = time.monotonic()

    def _hear_all(self, seconds: float | None) -> bool:
        """Whether a note of every other rank has come, or comes in that time."""
        end = None if seconds is None else time.monotonic() + seconds
        while len(self._heard) < self.size - 1:
            self._listen()
            if end is not None and time.monotonic() > end:
                return False
            if end is None and any(word == "failed" for word, _ in self._heard.values()):
                return False
            time.sleep(_NAP)
        return True

    # -- ending ---------------------------------------------------------------------------------------

    def fail(self, text: str, code: int, follows: bool = False) -> NoReturn:
        """Ends this process and all others with exit code `code`; `text` is told once, by a rank that failed with it.

        With `follows`, another rank has failed, and tells why.
        """
        self._ending = True
        self._say("followed" if follows else "failed", text)
        complete = self._hear_all(GRACE)
        failed = {rank: text for rank, (word, text) in self._heard.items() if word == "failed"}
        if not follows:
            failed[self.rank] = text
            alike = [rank for rank in sorted(failed) if failed[rank] == text]
            if alike[0] == self.rank:
                everywhere = len(alike) == self.size
                self._print(text if everywhere else f"{self.describe(self.rank)}: {text}")
        orderly = complete and all(word != "followed" for word, _ in self._heard.values()) and not follows
        if orderly and not self.outstanding:
            self._tell_witness("bye")
            sys.exit(code)
        self._tell_witness("failed")
        # What was printed is on its way still, and an abort would overtake it; followers leave it to who failed.
        time.sleep(GRACE if follows else GRACE / 4)
        self.world.Abort(code)
        raise SystemExit(code)

    def _print(self, text: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(text if text.endswith("\n") else f"{text}\n")
        sys.stderr.flush()

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """What Python calls for an exception that nobody catches: it ends all ranks."""
        if self._ending:
            self._usual_hook(kind, error, trace)
            return
        text = "".join(traceback.format_exception(kind, error, trace))
        try:
            self.fail(text, 130 if issubclass(kind, KeyboardInterrupt) else 1, isinstance(error, RankError))
        except SystemExit as end:
            # Python ends by itself after this, with code 1, and finalizes MPI.
            if end.code != 1:
                os._exit(int(end.code or 0))

    def _leave(self) -> None:
        """At the end of the program: waits for the others to come to theirs, as MPI would, but politely."""
        if self._ending:
            return
        self._ending = True
        self._say("left")
        if not self._hear_all(None):
            self._say("followed")
            self._tell_witness("failed")
            time.sleep(2 * GRACE)  # who failed ends all
            self.world.Abort(1)
        self._tell_witness("bye")


__all__ = ["Peers", "RankError", "find_peers", "load_mpi", "peers"]
