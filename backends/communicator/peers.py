"""Ranks as processes that depend on each other: politely waiting, and ending together.

A rank that waits for others must not wait for ever for one that has failed. So ranks tell each other by *notes* that
they end:

    failed    an error ended it; the text says which
    followed  it has read that another failed, and ends, too
    left      its program has come to its end

An error that all ranks raise alike (an option that cannot be) is told once; of one that a few raise, each is told with
its rank. All then exit with its code. Who is killed writes no note; how that is found out is up to what notes travel
by: MPI (`mpi_peers`) if MPI's launcher started the ranks, TCP (`tcp_peers`) otherwise.

Who is stopped, or hangs, writes no note either. So nobody waits longer than `Peers.timeout`. Who gives up asks the
others where they are, by two more notes, and tells for whom it has waited, and who waits at something else:

    asks      where is everybody?
    waits     what it waits for at present; empty of one that does not wait
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from graphir.backends.turns import turn_of_a_rank
from graphir.errors import AgreementError, CommunicationError, NonFiniteError, ReplicaError
from graphir.ir.layout import Mesh
from graphir.launch import TIMEOUT

#: Seconds that ranks wait for each other at the start, unless told otherwise: the first may come long before the last.
MEETING = 120.0
#: Seconds that a rank waits for others that neither fail nor leave, unless told otherwise: more than a checkpoint takes
#: that one of them writes.
WAITING = 1800.0
#: Seconds that a rank which gives up waits for the others to say where they are.
ANSWERING = 1.0
#: Seconds that a failed rank waits for the others' notes before it ends them.
GRACE = 2.0
#: Seconds that a rank goes on waiting for what others begin when one of them has left, and for their notes where all of
#: them fail.
PATIENCE = 30.0
#: What all ranks raise, if one does, and with the same text: they have found it together.
_ALIKE = (AgreementError, NonFiniteError, ReplicaError)
#: The notes about the end of who writes them.
ENDINGS = ("failed", "followed", "left")
#: Seconds of sleep between looks at what is waited for.
NAP = 2e-4


class RankError(CommunicationError):
    """Another rank has failed, and tells why; this one only follows."""


class Peers(ABC):
    """All processes that were started together."""

    rank: int
    size: int

    def __init__(self) -> None:
        #: What every run takes that communicates.
        self.turn = turn_of_a_rank()
        #: What is begun and not done, and would keep this process from an orderly end.
        self.outstanding = 0
        #: Ranks that communicate, by whatever a communicator knows them by: they are made once for a process.
        self.groups: dict[Any, Any] = {}
        #: Seconds that this process waits for others that neither fail nor leave.
        self.timeout = WAITING
        self._hurried = 0.0
        #: What this process waits for, and what others have said that they wait for.
        self._waits_for = ""
        self._places: dict[int, str] = {}
        self._heard: dict[int, tuple[str, str]] = {}
        self._mesh: Mesh | None = None
        self._ending = False
        self._left_at: float | None = None
        self._usual_hook = sys.excepthook

    def end_together(self) -> None:
        """From now on whatever ends this process ends all."""
        self._usual_hook = sys.excepthook
        sys.excepthook = self._uncaught
        atexit.register(self._leave)

    # -- names ----------------------------------------------------------------------------------------

    def name_ranks_by(self, mesh: Mesh) -> None:
        """From now on ranks are described as those of `mesh`."""
        self._mesh = mesh

    def describe(self, rank: int) -> str:
        """`rank 2`, and where it stands, once there is a mesh: `rank 2 (dp=0, tp=2)`."""
        return f"rank {rank}" if self._mesh is None or not self._mesh.axes else self._mesh.describe(rank)

    # -- what a means of exchange has to offer ---------------------------------------------------------

    @abstractmethod
    def share(self, data: bytes, purpose: str) -> list[bytes]:
        """What each rank hands in, by rank; all have to call this, in the same order."""

    @abstractmethod
    def post(self, target: int, data: bytes) -> None:
        """Sends a message, which may arrive after this returns."""

    @abstractmethod
    def fetch(self, source: int, purpose: str) -> bytes:
        """The first message of `source` not yet fetched; RankError if another rank has failed."""

    @abstractmethod
    def _say(self, word: str, text: str = "") -> None:
        """Sends a note to all others."""

    @abstractmethod
    def _listen(self) -> None:
        """Reads the notes that have come."""

    @abstractmethod
    def _farewell(self, failed: bool) -> None:
        """This process is about to end, and need not be missed."""

    @abstractmethod
    def _end_all(self, code: int) -> NoReturn:
        """Ends this process at once, and all others that have not ended by themselves."""

    # -- waiting --------------------------------------------------------------------------------------

    def until(self, ready: Callable[[], bool], purpose: str) -> None:
        """Returns when `ready`, which may take a moment to find out.

        RankError if another rank has failed; CommunicationError, with who does not come, after `timeout` seconds.
        """
        start = time.monotonic()
        self._waits_for = purpose
        try:
            while not ready():
                try:
                    self.check(purpose)
                except RankError:
                    # If it took its part in this before, this is about to be done, and may fail here by the same error.
                    end = time.monotonic() + GRACE / 4
                    while not ready():
                        if time.monotonic() > end:
                            raise
                    return
                if time.monotonic() > max(start, self._hurried) + self.timeout:
                    self._give_up(ready, purpose)
                    return
        finally:
            self._waits_for = ""

    def hurry(self, seconds: float) -> None:
        """From now on waits for no longer than that: this process has been told to end."""
        self._hurried, self.timeout = time.monotonic(), min(self.timeout, seconds)

    def _give_up(self, ready: Callable[[], bool], purpose: str) -> None:
        """CommunicationError that says where everybody is, unless what was waited for comes in this last moment."""
        self._places = {self.rank: purpose}
        self._say("asks")
        end = time.monotonic() + ANSWERING
        left = [rank for rank, (word, _) in self._heard.items() if word == "left"]
        while len(self._places) + len(left) < self.size and time.monotonic() < end:
            self.check(purpose)
            time.sleep(NAP)
        if not ready():
            raise CommunicationError(self._who_is_where(purpose, left))

    def _who_is_where(self, purpose: str, left: list[int]) -> str:
        here = sorted(rank for rank, place in self._places.items() if place == purpose)
        silent = [rank for rank in range(self.size) if rank not in self._places and rank not in left]
        busy = sorted(rank for rank, place in self._places.items() if not place)
        elsewhere: dict[str, list[int]] = {}
        for rank, place in sorted(self._places.items()):
            if place and place != purpose:
                elsewhere.setdefault(place, []).append(rank)
        absent = [
            f"{self._listed(ranks)}, which {verb}"
            for ranks, verb in (
                (silent, "does not answer" if len(silent) == 1 else "do not answer"),
                (busy, f"{'is' if len(busy) == 1 else 'are'} busy with something else"),
                (left, f"{_have(left)} come to the end of the program"),
            )
            if ranks
        ]
        waiting = [f"{self._listed(ranks)}, which {_have(ranks)} waited at {at}" for at, ranks in elsewhere.items()]
        also = "".join(f"; also {each}" for each in waiting) if absent else ""
        advice = (
            f"let ranks wait longer by {TIMEOUT}=seconds if that is as it should be"
            if silent or busy
            else "all ranks must run, fetch and gather the same things in the same order"
        )
        return (
            f"{self._listed(here)} {_have(here)} waited {self.timeout:g} s at {purpose} for "
            f"{' and for '.join(absent or waiting)}{also}; {advice}"
        )

    def _listed(self, ranks: list[int]) -> str:
        """`rank 2 (dp=0, tp=2)`, `ranks 2, 3`."""
        return self.describe(ranks[0]) if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"

    def check(self, purpose: str) -> None:
        """As `require_all`, of the notes that have come by now."""
        self._listen()
        self.require_all(purpose)

    def require_all(self, purpose: str) -> None:
        """RankError if another rank has failed, or has left for so long that what is waited for will never be."""
        for rank, (word, text) in list(self._heard.items()):
            if word == "failed":
                raise RankError(f"{self.describe(rank)} has failed: {text}")
            if word == "left" and self._left_at is not None and time.monotonic() - self._left_at > PATIENCE:
                raise CommunicationError(
                    f"{self.describe(self.rank)} waits for {purpose}, but {self.describe(rank)} has come to the end of "
                    f"its program; all ranks must run, fetch and gather the same things in the same order"
                )

    # -- notes ----------------------------------------------------------------------------------------

    def _hear(self, source: int, word: str, text: str) -> None:
        if word == "asks":
            self._say("waits", self._waits_for)
            return
        if word == "waits":
            self._places[source] = text
            return
        self._heard[source] = word, text
        if self._left_at is None and word == "left":
            self._left_at = time.monotonic()

    def _hear_all(self, seconds: float | None) -> bool:
        """Whether a note of every other rank has come, or comes in that time; without, none may be of a failure."""
        end = None if seconds is None else time.monotonic() + seconds
        while len(self._heard) < self.size - 1:
            self._listen()
            if end is not None and time.monotonic() > end:
                return False
            if end is None and self._has_failure():
                return False
            time.sleep(NAP)
        return end is not None or not self._has_failure()

    def _has_failure(self) -> bool:
        return any(word == "failed" for word, _ in list(self._heard.values()))

    # -- ending ---------------------------------------------------------------------------------------

    def fail(self, text: str, code: int, cause: BaseException | None = None) -> NoReturn:
        """Ends this process and all others with exit code `code`; `text` is told once, by a rank that failed with it.

        The cause may be that another rank has failed, which tells why, or one that all ranks find at the same time.
        """
        follows, alike = isinstance(cause, RankError), isinstance(cause, _ALIKE)
        self._ending = True
        give_signals_back()  # whoever interrupts now wants no words
        self._say("followed" if follows else "failed", text)
        complete = self._hear_all(PATIENCE if alike else GRACE)
        failed = {rank: text for rank, (word, text) in self._heard.items() if word == "failed"}
        if not follows:
            failed[self.rank] = text
            same = [rank for rank in sorted(failed) if failed[rank] == text]
            if same[0] == self.rank:
                everywhere = alike or len(same) == self.size
                self._print(text if everywhere else f"{self.describe(self.rank)}: {text}")
        orderly = complete and all(word != "followed" for word, _ in self._heard.values()) and not follows
        if orderly and not self.outstanding:
            self._farewell(failed=False)
            sys.exit(code)
        self._farewell(failed=True)
        # What was printed is on its way still, and an abort would overtake it; followers leave it to who failed.
        time.sleep(GRACE if follows else GRACE / 4)
        self._end_all(code)

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
            self.fail(text, 130 if issubclass(kind, KeyboardInterrupt) else 1, error)
        except SystemExit as end:
            # Python ends by itself after this, with code 1, and finalizes what is to be finalized.
            if end.code != 1:
                os._exit(int(end.code or 0))

    def _leave(self) -> None:
        """At the end of the program: waits, politely, for the others to come to theirs."""
        if self._ending:
            return
        self._ending = True
        give_signals_back()
        self._say("left")
        if not self._hear_all(None):
            self._say("followed")
            self._farewell(failed=True)
            time.sleep(2 * GRACE)  # who failed ends all
            self._end_all(1)
        self._farewell(failed=False)


def give_signals_back() -> None:
    """From now on SIGINT and SIGTERM end this process at once, wherever it is."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _have(ranks: list[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


__all__ = ["ENDINGS", "GRACE", "MEETING", "NAP", "PATIENCE", "WAITING", "Peers", "RankError"]
