"""The hub: where ranks that no MPI has brought together meet, by TCP, and what relays their messages.

A thread of rank 0's process listens at the master's address, waits until every rank has come, and then passes on what
each sends. Of a rank whose connection ends without a farewell, because it was killed or has crashed, or because its
machine is down or cut off (`sockets`), the hub tells the others.

A *frame* is the length of its head and that of its data, 4 and 8 bytes with the largest first, then the head, in JSON,
then the data. Heads are

    hello     a rank comes: which one it is, of how many, its process and machine
    welcome   all have come; which process, on which machine, rank 0 is
    refused   they have not, or what came is no rank of theirs; the text says why
    note, message, part    from rank to rank, or to all others; see `tcp_peers`
    gone      a rank has gone without a farewell; which process it was, and how it went
    bye       a rank has come to its end, and may go
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from graphir.backends.communicator.sockets import SILENCE, Address, is_here, is_silence, listen, spoken, watched

_LENGTHS = struct.Struct("!IQ")
#: The longest head: a note's text is a traceback.
_HEAD = 1 << 20
Head = dict[str, Any]


def pack(head: Head, data: bytes = b"") -> bytes:
    """A frame."""
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), len(data)) + text + data


def hello(rank: int, size: int) -> Head:
    """What this process says when it comes."""
    return {"kind": "hello", "rank": rank, "size": size, "process": os.getpid(), "machine": socket.gethostname()}


class Reader:
    """Frames out of what a connection brings, piece by piece."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Head, bytes]]:
        """The frames that are complete now. ValueError if that is no frame."""
        self._unread += data
        while len(self._unread) >= _LENGTHS.size:
            length, size = _LENGTHS.unpack_from(self._unread)
            if length > _HEAD:
                raise ValueError(f"a head of {length} bytes")
            end = _LENGTHS.size + length + size
            if len(self._unread) < end:
                return
            head = json.loads(self._unread[_LENGTHS.size : _LENGTHS.size + length])
            found = bytes(self._unread[_LENGTHS.size + length : end])
            del self._unread[:end]
            yield head, found


def how_it_went(error: OSError | None) -> str:
    """What has become of the process at the other end of a connection that ended without a farewell."""
    if is_silence(error):
        return f"has not answered for {SILENCE} s: its machine, or the network to it, is down"
    return "was killed or has crashed"


class Hub:
    """Serves `size` ranks at `address`, and rank 0 through `inside`; `run` returns when all are gone.

    CommunicationError if it cannot listen there.
    """

    def __init__(self, address: Address, size: int, seconds: float) -> None:
        self._address, self._size, self._seconds = address, size, seconds
        self._listener = listen(address, max(size, 16))
        self.inside, self._own = socket.socketpair()
        self._connections: dict[int, socket.socket] = {}
        self._errors: dict[int, OSError] = {}
        self._hellos: dict[int, Head] = {}
        self._done: set[int] = set()

    def run(self) -> None:
        """Waits for all ranks, then relays."""
        with self._listener:
            why = self._meet()
        if why:
            for connection in reversed(self._connections.values()):  # with rank 0's process this thread ends
                _refuse(connection, why)
            return
        for rank in self._connections:
            self._send(rank, pack({"kind": "welcome", "where": _where(self._hellos[0])}))
        self._relay()

    # -- meeting --------------------------------------------------------------------------------------

    def _meet(self) -> str:
        """Why not all ranks have come; nothing if they have."""
        end = time.monotonic() + self._seconds
        with selectors.DefaultSelector() as selector:
            # Rank 0 comes first: whatever goes wrong, it is told.
            self._connections[0], self._hellos[0] = self._own, hello(0, self._size)
            selector.register(self._listener, selectors.EVENT_READ)
            while len(self._connections) < self._size:
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready and time.monotonic() >= end:
                    return self._missing()
                for key, _ in ready:
                    if key.data is None:
                        connection, _ = self._listener.accept()
                        selector.register(watched(connection), selectors.EVENT_READ, Reader())
                        continue
                    why = self._greet(key.fileobj, key.data, selector)  # type: ignore[arg-type]
                    if why:
                        return why
        return ""

    def _greet(self, connection: socket.socket, reader: Reader, selector: selectors.BaseSelector) -> str:
        """Reads a newcomer's hello; what is no hello comes from somebody else, and is sent away."""
        try:
            data = connection.recv(65536)
            head = next((head for head, _ in reader.feed(data)), None)
            if head is None and data:
                return ""
            if head is None or head["kind"] != "hello":
                raise ValueError("no hello")
            rank, size = int(head["rank"]), int(head["size"])
        except (OSError, ValueError, KeyError, TypeError):
            selector.unregister(connection)
            connection.close()
            return ""
        selector.unregister(connection)
        if size != self._size:
            _refuse(connection, why := self._other_size(rank, size, head))
            return why
        if rank in self._connections:
            one, other = self._hellos[rank], head
            why = f"{_where(one)} and {_where(other)} both say RANK={rank}; each needs one of its own"
            _refuse(connection, why)
            return why
        self._connections[rank], self._hellos[rank] = connection, head
        return ""

    def _other_size(self, rank: int, size: int, head: Head) -> str:
        return (
            f"rank {rank} ({_where(head)}) says WORLD_SIZE={size}, but rank 0 says WORLD_SIZE={self._size}; all must "
            f"say the same"
        )

    def _missing(self) -> str:
        came = sorted(self._connections)
        lacking = [rank for rank in range(self._size) if rank not in self._connections]
        elsewhere = "" if is_here(self._address) else f" ({self._address[0]} is no address of rank 0's machine)"
        return (
            f"of {self._size} ranks only {_listed(came)} came within {self._seconds:.0f} s, and {_listed(lacking)} did "
            f"not; start every RANK from 0 to {self._size - 1} with the same MASTER_ADDR and MASTER_PORT, "
            f"{spoken(self._address)} for rank 0{elsewhere}, and let its machine accept connections there"
        )

    # -- relaying -------------------------------------------------------------------------------------

    def _relay(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, (rank, Reader()))
            while selector.get_map():
                for key, _ in selector.select():
                    rank, reader = key.data
                    if not self._hear(rank, reader):
                        selector.unregister(key.fileobj)
                        self._connections.pop(rank).close()
                        if rank not in self._done:
                            went = {"text": _where(self._hellos[rank]), "how": how_it_went(self._errors.get(rank))}
                            self._pass_on(rank, {"kind": "gone", **went}, b"")

    def _hear(self, rank: int, reader: Reader) -> bool:
        """Passes on what a rank has sent; False at the end."""
        try:
            data = self._connections[rank].recv(1 << 20)
            for head, content in reader.feed(data):
                self._pass_on(rank, head, content)
        except OSError as error:
            self._errors.setdefault(rank, error)
            return False
        except ValueError:  # no frames, so none of ours any more
            return False
        return bool(data)

    def _pass_on(self, source: int, head: Head, data: bytes) -> None:
        if head["kind"] == "bye":
            self._done.add(source)
            return
        target = head.get("to")
        frame = pack({**head, "from": source}, data)
        for rank in [target] if target is not None else [rank for rank in self._connections if rank != source]:
            if rank in self._connections:
                self._send(rank, frame)

    def _send(self, rank: int, frame: bytes) -> None:
        try:
            self._connections[rank].sendall(frame)
        except OSError as error:
            # Who is gone is noticed when its connection is read; why it broke is said only once.
            self._errors.setdefault(rank, error)


def _refuse(connection: socket.socket, why: str) -> None:
    with suppress(OSError):  # it has gone by itself
        connection.sendall(pack({"kind": "refused", "text": why}))
    connection.close()


def _where(hello: Head) -> str:
    return f"process {hello.get('process')} on {hello.get('machine')}"


def _listed(ranks: list[int]) -> str:
    if not ranks:
        return "none"
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


__all__ = ["Head", "Hub", "Reader", "hello", "how_it_went", "pack"]
