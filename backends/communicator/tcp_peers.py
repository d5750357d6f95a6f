"""Peers that meet by TCP: ranks started by torchrun, or by whatever sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

Every rank has one connection, to the hub in rank 0's process (`hub`), and a thread that reads it. So a rank hears of
another's end within moments, whatever it is doing itself: also while it waits for a device that waits for that rank. It
then has some seconds to fail by itself, with the same error perhaps, before its process is ended. Nothing
large travels this way; that is what NCCL is for.

Anybody who reaches the port can pretend to be a rank, so it belongs to a network that one trusts.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from typing import NoReturn

from graphir.backends.communicator import peers as shared
from graphir.backends.communicator.hub import Head, Hub, Reader, hello, pack
from graphir.backends.communicator.peers import NAP, Peers
from graphir.errors import CommunicationError
from graphir.launch import Launch

#: Seconds that ranks wait for each other at the start: the first may come long before the last.
MEETING = 120.0


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
        self._shared, self._lost = 0, ""
        self._connection: socket.socket | None = None
        self._sending = threading.Lock()
        #: Whether the end of another rank ends this process, whatever it is doing.
        self._together = False
        if self.size > 1:
            assert launch.master is not None
            self._meet(launch.master, MEETING if seconds is None else seconds)

    # -- meeting --------------------------------------------------------------------------------------

    def _meet(self, address: tuple[str, int], seconds: float) -> None:
        if self.rank == 0:
            self._connection, own = socket.socketpair()
            hub = Hub(address, own, self.size, seconds)
            threading.Thread(target=hub.run, name="graphir hub", daemon=True).start()
        else:
            self._connection = self._reach(address, seconds)
            self._send(hello(self.rank, self.size))
        reader, answers = Reader(), list[tuple[Head, bytes]]()
        # The hub answers when its own time is over; a moment later, it is not there.
        self._connection.settimeout(seconds + 10.0)
        while not answers:
            try:
                data = self._connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise CommunicationError(
                    f"rank {self.rank} has met rank 0 at {address[0]}:{address[1]}, which then went away; its own "
                    f"error says why"
                )
            answers = list(reader.feed(data))
        (answer, _), *rest = answers
        if answer["kind"] != "welcome":
            raise CommunicationError(f"the ranks do not find together: {answer.get('text')}")
        self._connection.settimeout(None)
        for head, content in rest:
            self._take(head, content)
        threading.Thread(target=self._read, args=(reader,), name="graphir peers", daemon=True).start()

    def _reach(self, address: tuple[str, int], seconds: float) -> socket.socket:
        end = time.monotonic() + seconds
        while True:
            try:
                found = socket.create_connection(address, timeout=max(0.1, end - time.monotonic()))
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return found
            except OSError as error:
                if time.monotonic() > end:
                    raise CommunicationError(
                        f"rank {self.rank} finds nobody at {address[0]}:{address[1]} within {seconds:.0f} s "
                        f"({error.strerror or error}); rank 0 has to be started there, and MASTER_ADDR and MASTER_PORT "
                        f"be the same for all ranks"
                    ) from None
                time.sleep(0.05)

    # -- the connection -------------------------------------------------------------------------------

    def _send(self, head: Head, data: bytes = b"") -> None:
        if self._connection is not None:
            # If it is broken, rank 0 is gone, and the thread that reads finds out.
            with self._sending, suppress(OSError):
                self._connection.sendall(pack(head, data))

    def _read(self, reader: Reader) -> None:
        """Takes what comes, until the connection ends: a thread's work."""
        assert self._connection is not None
        while True:
            try:
                data = self._connection.recv(1 << 20)
            except OSError:
                data = b""
            for head, content in reader.feed(data):
                self._take(head, content)
            if not data:
                if not self._ending:
                    self._take({"kind": "gone", "from": 0, "text": "process"}, b"")
                return

    def _take(self, head: Head, data: bytes) -> None:
        source, kind = head["from"], head["kind"]
        with self._changed:
            if kind == "note":
                self._hear(source, head["word"], head["text"])
            elif kind == "part":
                self._parts[head["number"]][source] = data
            elif kind == "message":
                self._messages[source].append(data)
            elif kind == "gone" and source not in self._heard:
                self._lose(source, head["text"])
            self._changed.notify_all()
        stopped = self._heard.get(source, ("", ""))[0] in ("failed", "followed")
        if stopped and self._together and not self._ending:
            threading.Thread(target=self._follow, name="graphir end", daemon=True).start()

    def _lose(self, rank: int, where: str) -> None:
        """A rank has gone without a word; of those that are left the first tells it."""
        self._lost = f"error: {self.describe(rank)} is gone: its {where} was killed or has crashed; all ranks stop"
        present = [each for each in range(self.size) if each != rank and each not in self._heard]
        self._hear(rank, "failed", "it was killed or has crashed")
        if present and present[0] == self.rank and self._together:
            self._print(self._lost)

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
        self._send({"kind": "part", "number": number}, data)
        with self._changed:
            self._parts[number][self.rank] = data
            while len(self._parts[number]) < self.size:
                self.require_all(purpose)
                self._changed.wait(0.1)
            parts = self._parts.pop(number)
        return [parts[rank] for rank in range(self.size)]

    def post(self, target: int, data: bytes) -> None:
        if target != self.rank:
            self._send({"kind": "message", "to": target}, data)
            return
        with self._changed:
            self._messages[target].append(data)

    def fetch(self, source: int, purpose: str) -> bytes:
        with self._changed:
            while not self._messages[source]:
                self.require_all(purpose)
                self._changed.wait(0.1)
            return self._messages[source].popleft()

    # -- notes, and ending ----------------------------------------------------------------------------

    def _say(self, word: str, text: str = "") -> None:
        self._send({"kind": "note", "word": word, "text": text})

    def _listen(self) -> None:
        """Notes are read by a thread."""

    def _farewell(self, failed: bool) -> None:
        self._send({"kind": "bye"})
        if self.rank == 0 and self.size > 1:
            # The hub lives here: what others have said last has to be passed on before it goes.
            time.sleep(shared.GRACE / 4 if failed else 20 * NAP)

    def _end_all(self, code: int) -> NoReturn:
        # Not by way of `sys.exit`: a device that waits for another rank would be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def close(self) -> None:
        """Leaves, without waiting for the others."""
        self._ending = True
        self._send({"kind": "bye"})
        if self._connection is not None:
            self._connection.close()


__all__ = ["MEETING", "TcpPeers"]
