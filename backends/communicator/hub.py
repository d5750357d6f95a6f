"""The hub: what relays the messages of ranks that no MPI has brought together, once they have met (`rendezvous`).

It is a thread of rank 0's process. Of a rank whose connection ends without a farewell, because it was killed or has
crashed, or because its machine is down or cut off (`sockets`), the hub tells the others. What one rank sends, whatever
it is, ends no connection but its own.
"""

from __future__ import annotations

import os
import selectors
import socket
from contextlib import ExitStack, closing

from graphir.backends.communicator.frames import ALL, NOTES, Frame, Kind, Reader, pack
from graphir.backends.communicator.rendezvous import Member, Rendezvous
from graphir.backends.communicator.sockets import SILENCE, close, is_silence
from graphir.errors import CommunicationError
from graphir.launch import Launch

#: What ranks may send.
_SENT = NOTES | {Kind.PART, Kind.MESSAGE, Kind.BYE}


def where() -> str:
    """Which process on which machine this is."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def how_it_went(error: Exception | None) -> str:
    """What has become of the process at the other end of a connection that ended without a farewell."""
    if isinstance(error, OSError) and is_silence(error):
        return f"has not answered for {SILENCE} s: its machine, or the network to it, is down"
    if error is not None and not isinstance(error, OSError):
        return f"has sent what no rank sends: {error}"
    return "was killed or has crashed"


class Hub:
    """Serves the ranks of `launch`, and rank 0 through `inside`; `run` returns when all are gone.

    CommunicationError if it cannot listen.
    """

    def __init__(self, launch: Launch, seconds: float) -> None:
        try:
            with ExitStack() as held:
                self._rendezvous = held.enter_context(closing(Rendezvous(launch, seconds)))
                self._selector = held.enter_context(selectors.DefaultSelector())
                self.inside, own = socket.socketpair()
                held.pop_all()
        except OSError as error:  # nothing may be left of what a process can open
            raise CommunicationError(f"rank 0 cannot let the other ranks come in: {error.strerror}") from None
        self._size = launch.size
        self._members = {0: Member(own, where())}
        self._errors: dict[int, Exception] = {}
        self._done: set[int] = set()

    def run(self) -> None:
        """Waits for all ranks, then relays."""
        try:
            self._members = self._rendezvous.meet(self._members[0])
            for rank in self._members:
                self._send(rank, pack(Frame(Kind.WELCOME, rank=0, text=self._members[0].where)))
            self._relay()
        except CommunicationError:
            return  # told to all who came, rank 0 among them
        finally:
            self._selector.close()
            close(member.connection for member in self._members.values())

    def _relay(self) -> None:
        for rank, member in self._members.items():
            self._selector.register(member.connection, selectors.EVENT_READ, (rank, Reader(_SENT)))
        while self._selector.get_map():
            for key, _ in self._selector.select():
                rank, reader = key.data
                if not self._hear(rank, reader):
                    self._selector.unregister(key.fileobj)
                    gone = self._members.pop(rank)
                    gone.connection.close()
                    if rank not in self._done:
                        told = f"{gone.where} {how_it_went(self._errors.get(rank))}"
                        self._pass_on(rank, Frame(Kind.GONE, text=told))

    def _hear(self, rank: int, reader: Reader) -> bool:
        """Passes on what a rank has sent; False at the end."""
        try:
            data = self._members[rank].connection.recv(1 << 20)
            for frame in reader.feed(data):
                self._pass_on(rank, frame)
        except Exception as error:
            self._errors.setdefault(rank, error)
            return False
        return bool(data)

    def _pass_on(self, source: int, frame: Frame) -> None:
        if frame.kind == Kind.BYE:
            self._done.add(source)
            return
        if not ALL <= frame.rank < self._size:
            raise ValueError(f"a message for rank {frame.rank} of {self._size}")
        targets = [rank for rank in self._members if rank != source] if frame.rank == ALL else [frame.rank]
        packed = pack(Frame(frame.kind, source, frame.number, frame.text, frame.data))
        for rank in targets:
            if rank in self._members:
                self._send(rank, packed)

    def _send(self, rank: int, packed: bytes) -> None:
        try:
            self._members[rank].connection.sendall(packed)
        except OSError as error:
            # Who is gone is noticed when its connection is read; why it broke is said only once.
            self._errors.setdefault(rank, error)


__all__ = ["Hub", "how_it_went", "where"]
