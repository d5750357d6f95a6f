"""Peers that meet by TCP: ranks started by torchrun, or by whatever sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

Every rank has one connection, to the hub in rank 0's process (`hub`), and a thread that reads it. So a rank hears of
another's end within moments, whatever it is doing itself: also while it waits for a device that waits for that rank. It
then has some seconds to fail by itself, with the same error perhaps, before its process is ended. Of a machine that is
down or cut off it hears after the seconds of `sockets.SILENCE`. Nothing large travels this way; that is what NCCL is
for.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from graphir.backends.communicator import peers as shared
from graphir.backends.communicator.frames import NOTES, Frame, Kind, Reader, pack
from graphir.backends.communicator.hub import Hub, how_it_went, where
from graphir.backends.communicator.joining import join
from graphir.backends.communicator.peers import ENDINGS, MEETING, Peers
from graphir.backends.communicator.sockets import is_silence, spoken
from graphir.errors import CommunicationError
from graphir.launch import Launch

#: What comes from the hub before all have met, and from then on.
_ANSWERS = frozenset([Kind.WELCOME, Kind.REFUSED])
_SENT = NOTES | {Kind.PART, Kind.MESSAGE, Kind.GONE}


class TcpPeers(Peers):
    """The process that `launch` describes, and all others of that launch; alone if there is none.

    Errors: CommunicationError, which tells who came, unless all ranks come within `MEETING` seconds.
    """

    def __init__(self, launch: Launch | None, seconds: float | None = None) -> None:
        super().__init__()
        launch = launch or Launch(1, 0, 1)
        self.rank, self.size = launch.rank, launch.size
        self._changed = threading.Condition()
        self._parts: dict[int, dict[int, bytes]] = defaultdict(dict)
        self._messages: dict[int, deque[bytes]] = defaultdict(deque)
        self._shared = 0
        self._connection: socket.socket | None = None
        self._sending = threading.Lock()
        self._broken: Exception | None = None
        #: Where the hub lives: the thread, in rank 0's process, and that process.
        self._hub: threading.Thread | None = None
        self._master = "process"
        #: The last note of this process, of those about its end.
        self._said = ""
        #: Whether the end of another rank ends this process, whatever it is doing.
        self._together = False
        if self.size > 1:
            self._meet(launch, seconds or launch.timeout or MEETING)

    # -- meeting --------------------------------------------------------------------------------------

    def _meet(self, launch: Launch, seconds: float) -> None:
        hub = Hub(launch, seconds) if self.rank == 0 else None
        self._connection = join(launch, seconds, where()) if hub is None else hub.inside
        try:
            if hub is not None:
                self._hub = threading.Thread(target=hub.run, name="graphir hub", daemon=True)
                self._hub.start()
            # The hub answers when its own time is over; a moment later, it is not there.
            self._connection.settimeout(seconds + 10.0)
            welcome, rest = self._await_answer(launch)
        except BaseException:  # an interruption, too
            self._connection.close()
            if self._hub is not None:  # it tells who came, and leaves nothing behind
                self._hub.join(shared.GRACE)
            raise
        self._connection.settimeout(None)
        self._master = welcome.text
        threading.Thread(target=self._read, args=(rest,), name="graphir peers", daemon=True).start()

    def _await_answer(self, launch: Launch) -> tuple[Frame, bytes]:
        """A welcome, and what may have come with it of the next frames; CommunicationError if there is none."""
        assert self._connection is not None
        assert launch.master is not None
        met = f"rank {self.rank} has met rank 0 at {spoken(launch.master)}, which then"
        reader = Reader(_ANSWERS)
        try:
            while data := self._connection.recv(1 << 16):
                for answer in reader.feed(data):
                    if answer.kind == Kind.REFUSED:
                        raise CommunicationError(f"the ranks do not find together: {answer.text}")
                    return answer, reader.rest
        except (OSError, ValueError) as error:
            # That time is over is no error of the system's.
            went = "did not answer" if isinstance(error, TimeoutError) and error.errno is None else how_it_went(error)
            raise CommunicationError(f"{met} {went}") from None
        raise CommunicationError(f"{met} went away; its own error says why")

    # -- the connection -------------------------------------------------------------------------------

    def _send(self, frame: Frame) -> None:
        if self._connection is not None:
            packed = pack(frame)
            try:
                with self._sending:
                    self._connection.sendall(packed)
            except OSError as error:
                # Rank 0 is gone, and the thread that reads finds out; why, the system says only once.
                self._broken = error

    def _read(self, data: bytes) -> None:
        """Takes what comes, `data` first, until the connection ends: a thread's work."""
        assert self._connection is not None
        reader, goes_on = Reader(_SENT), True
        while goes_on:
            try:
                for frame in reader.feed(data):
                    self._take(frame)
                data = self._connection.recv(1 << 20)
                goes_on = bool(data)
            except (OSError, ValueError) as error:
                self._broken, goes_on = self._broken or error, False
        self._cut_off()

    def _take(self, frame: Frame) -> None:
        source, kind = frame.rank, frame.kind
        if not 0 <= source < self.size:
            raise ValueError(f"a frame of rank {source} of {self.size}")
        with self._changed:
            if kind in NOTES:
                self._hear(source, kind.name.lower(), frame.text)
            elif kind == Kind.PART:
                self._parts[frame.number][source] = frame.data
            elif kind == Kind.MESSAGE:
                self._messages[source].append(frame.data)
            elif kind == Kind.GONE and source not in self._heard:
                self._lose(source, frame.text)
            self._changed.notify_all()
        self._follow_if_stopped(source)

    def _cut_off(self) -> None:
        """The connection to the hub, in rank 0's process, has ended: in order, or with that process."""
        complete = self._said == "left" and len(self._heard) == self.size - 1
        if complete or self._said not in ("", "left") or self._has_stopped(0):
            return
        with self._changed:
            # Nobody else can tell those who are cut off.
            silent = isinstance(self._broken, OSError) and is_silence(self._broken)
            self._lose(0, f"{self._master} {how_it_went(self._broken)}", told_by_all=silent)
            self._changed.notify_all()
        self._follow_if_stopped(0)

    def _lose(self, rank: int, what: str, told_by_all: bool = False) -> None:
        """A rank has gone without a word; of those that are left the first tells it."""
        told = f"error: {self.describe(rank)} is gone: its {what}; all ranks stop"
        present = [each for each in range(self.size) if each != rank and not self._has_stopped(each)]
        self._hear(rank, "failed", f"its {what}")
        if self._together and (told_by_all or self.rank in present[:1]):
            self._print(told)

    def _has_stopped(self, rank: int) -> bool:
        return self._heard.get(rank, ("", ""))[0] in ("failed", "followed")

    def _follow_if_stopped(self, rank: int) -> None:
        if self._has_stopped(rank) and self._together and not self._ending:
            threading.Thread(target=self._follow, name="graphir end", daemon=True).start()

    def end_together(self) -> None:
        super().end_together()
        self._together = True

    def _follow(self) -> None:
        """Ends this process, if it does not by itself, because another rank has failed; after that one has told why."""
        time.sleep(shared.GRACE / 2)
        if not self._ending:
            self._say("followed")
            time.sleep(shared.GRACE)
        if not self._ending:
            self._end_all(1)

    # -- messages -------------------------------------------------------------------------------------

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        number, self._shared = self._shared, self._shared + 1
        self._send(Frame(Kind.PART, number=number, data=data))
        with self._changed:
            self._parts[number][self.rank] = data
        self.until(lambda: self._comes(lambda: len(self._parts[number]) == self.size), purpose)
        with self._changed:
            parts = self._parts.pop(number)
        return [parts[rank] for rank in range(self.size)]

    def post(self, target: int, data: bytes) -> None:
        if target != self.rank:
            self._send(Frame(Kind.MESSAGE, target, data=data))
            return
        with self._changed:
            self._messages[target].append(data)

    def fetch(self, source: int, purpose: str) -> bytes:
        self.until(lambda: self._comes(lambda: bool(self._messages[source])), purpose)
        with self._changed:
            return self._messages[source].popleft()

    def _comes(self, what: Callable[[], bool]) -> bool:
        """Whether that has come, or comes in a moment."""
        with self._changed:
            return self._changed.wait_for(what, 0.1)

    # -- notes, and ending ----------------------------------------------------------------------------

    def _say(self, word: str, text: str = "") -> None:
        if word in ENDINGS:
            self._said = word
        self._send(Frame(Kind[word.upper()], text=text))

    def _listen(self) -> None:
        """Notes are read by a thread."""

    def _farewell(self, failed: bool) -> None:
        self._send(Frame(Kind.BYE))
        if self._hub is not None and self._connection is not None:
            # The hub lives here: what others have said last has to be passed on, and they go at once when they know
            # that all have come to their end. Others that follow a failure take longer, and need no hub for it.
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            self._hub.join(shared.GRACE / 4 if failed else shared.GRACE)

    def _end_all(self, code: int) -> NoReturn:
        # Not by way of `sys.exit`: a device that waits for another rank would be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def close(self) -> None:
        """Leaves, without waiting for the others."""
        self._ending, self._said = True, "closed"
        self._send(Frame(Kind.BYE))
        if self._connection is not None:
            self._connection.close()


__all__ = ["TcpPeers"]
