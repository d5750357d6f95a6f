"""The hub: where ranks that no MPI has brought together meet, by TCP, and what relays their messages.

A thread of rank 0's process listens at the master's address, waits until every rank has come, and then passes on what
each sends. A rank whose connection ends without a farewell was killed or has crashed, and the hub tells the others.

A *frame* is the length of its head and that of its data, 4 and 8 bytes with the largest first, then the head, in JSON,
then the data. Heads are

    hello     a rank comes: which one it is, of how many, its process and machine
    welcome   all have come
    refused   they have not, or what came is no rank of theirs; the text says why
    note, message, part    from rank to rank, or to all others; see `tcp_peers`
    gone      a rank has gone without a farewell
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

from graphir.errors import CommunicationError

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


class Hub:
    """Serves `size` ranks at `address`, and rank 0 through `own`; `run` returns when all are gone.

    CommunicationError if the port is taken.
    """

    def __init__(self, address: tuple[str, int], own: socket.socket, size: int, seconds: float) -> None:
        self._own, self._size, self._seconds = own, size, seconds
        self._listener = _listen(address, size)
        self._connections: dict[int, socket.socket] = {}
        self._hellos: dict[int, Head] = {}
        self._done: set[int] = set()

    def run(self) -> None:
        """Waits for all ranks, then relays."""
        with self._listener:
            why = self._meet()
        if why:
            for connection in self._connections.values():
                _send(connection, pack({"kind": "refused", "text": why}))
                connection.close()
            return
        for connection in self._connections.values():
            _send(connection, pack({"kind": "welcome"}))
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
                        selector.register(connection, selectors.EVENT_READ, Reader())
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
            _send(connection, pack({"kind": "refused", "text": (why := self._other_size(rank, size, head))}))
            connection.close()
            return why
        if rank in self._connections:
            one, other = self._hellos[rank], head
            why = f"{_where(one)} and {_where(other)} both say RANK={rank}; each needs one of its own"
            _send(connection, pack({"kind": "refused", "text": why}))
            connection.close()
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
        return (
            f"of {self._size} ranks only {_listed(came)} came within {self._seconds:.0f} s, and {_listed(lacking)} did "
            f"not; start every RANK from 0 to {self._size - 1} with the same MASTER_ADDR and MASTER_PORT"
        )

    # -- relaying -------------------------------------------------------------------------------------

    def _relay(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, (rank, Reader()))
            while selector.get_map():
                for key, _ in selector.select():
                    rank, reader = key.data
                    connection = self._connections[rank]
                    try:
                        data = connection.recv(1 << 20)
                    except OSError:
                        data = b""
                    for head, content in reader.feed(data):
                        self._pass_on(rank, head, content)
                    if not data:
                        selector.unregister(connection)
                        connection.close()
                        del self._connections[rank]
                        if rank not in self._done:
                            self._pass_on(rank, {"kind": "gone", "text": _where(self._hellos[rank])}, b"")

    def _pass_on(self, source: int, head: Head, data: bytes) -> None:
        if head["kind"] == "bye":
            self._done.add(source)
            return
        target = head.get("to")
        frame = pack({**head, "from": source}, data)
        for rank in [target] if target is not None else [rank for rank in self._connections if rank != source]:
            if rank in self._connections:
                _send(self._connections[rank], frame)


def _listen(address: tuple[str, int], size: int) -> socket.socket:
    """A socket that listens at the master's address, or, where that is another name of this machine, at the port."""
    host, port = address
    try:
        try:
            return socket.create_server((host, port), backlog=max(size, 16))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno != 99:  # EADDRNOTAVAIL: a service's address
                raise
            return socket.create_server(("", port), backlog=max(size, 16))
    except OSError as error:
        raise CommunicationError(
            f"rank 0 cannot listen at {host}:{port} for the other ranks: {error.strerror or error}; choose another "
            f"MASTER_PORT, and let MASTER_ADDR be the machine of rank 0"
        ) from None


def _send(connection: socket.socket, frame: bytes) -> None:
    # Who is gone is noticed when its connection is read.
    with suppress(OSError):
        connection.sendall(frame)


def _where(hello: Head) -> str:
    return f"process {hello.get('process')} on {hello.get('machine')}"


def _listed(ranks: list[int]) -> str:
    if not ranks:
        return "none"
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


__all__ = ["Head", "Hub", "Reader", "hello", "pack"]
