"""A rendezvous under siege: real ranks meet by TCP, as threads of this process, while strangers do what they do."""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from graphir.backends.communicator import handshake
from graphir.backends.communicator.tcp_peers import TcpPeers
from graphir.backends.communicator.tokens import find_token
from graphir.errors import CommunicationError
from graphir.launch import Launch
from tests.attack.outcome import HangError, LossError, RawError
from tests.support.free_port import free_port

#: Seconds within which ranks meet, whoever else comes; and after which something hangs.
LIMIT, HANGS = 60.0, 120.0
#: Seconds that a rank gives whoever has taken the port.
SHORT = 0.4


@dataclass
class Siege:
    """What strangers have: an address, a source of chance, and whatever they have opened and set going."""

    address: tuple[str, int]
    random: Random
    token: bytes | None = None
    over: threading.Event = field(default_factory=threading.Event)
    held: ExitStack = field(default_factory=ExitStack)

    def connect(self) -> socket.socket:
        """A connection to rank 0, which may begin to listen in a moment."""
        return self.held.enter_context(connect(self.address))

    def prove(self) -> socket.socket:
        """A connection that knows the token."""
        connection = self.connect()
        challenge = take(connection, handshake.CHALLENGE)
        connection.sendall(handshake.new_answer(self.known_token(), challenge))
        take(connection, handshake.ADMISSION)
        return connection

    def known_token(self) -> bytes:
        """What only members know."""
        token = self.token or find_token(self.address)
        assert token is not None
        return token

    def go_on(self, act: Callable[[], object]) -> None:
        """Does something over and over, until the siege is over or the system forbids it."""

        def work() -> None:
            with suppress(OSError):
                while not self.over.wait(0.002):
                    act()

        thread = threading.Thread(target=work)
        thread.start()
        self.held.callback(thread.join)

    def end(self) -> None:
        """Leaves nothing behind."""
        self.over.set()
        self.held.close()


#: What a stranger does, and what somebody does who has the port in place of rank 0, to each that comes.
Stranger: TypeAlias = Callable[[Siege], None]
Impostor: TypeAlias = Callable[[Siege, socket.socket], None]


def connect(address: tuple[str, int], source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine to who may begin to listen in a moment."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            found = socket.create_connection(address, LIMIT, (source, 0))
            if found.getsockname() != found.getpeername():
                return found
            found.close()  # a socket that chooses a port by itself may meet itself
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
        time.sleep(0.005)


def take(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer at the end."""
    found = b""
    while len(found) < size and (piece := connection.recv(size - len(found))):
        found += piece
    return found


def withstand(stranger: Stranger, random: Random) -> str:
    """Ranks meet, and are heard by each other, whatever the stranger does meanwhile."""
    target, size = spoken(stranger), random.choice([2, 2, 3, 5])
    token = random.choice([None, random.randbytes(32)])
    siege = Siege(("127.0.0.1", free_port()), random, token)
    with _observed(target) as told:
        first = _Rank(_launch(siege, size, 0))
        try:
            with suppress(OSError):  # it may be sent away while it speaks
                stranger(siege)
            ranks = [first, *(_Rank(_launch(siege, size, rank)) for rank in range(1, size))]
            for each in ranks:
                each.wait(target)
        finally:
            siege.end()
            first.end()
    return "they met, and told of strangers once" if told else "they met"


def see_through(impostor: Impostor, random: Random) -> str:
    """A rank that finds somebody else in place of rank 0 says so, in its own time, whatever a handshake's is."""
    target = spoken(impostor)
    usual, handshake.SECONDS = handshake.SECONDS, 2 * HANGS
    with _observed(target), socket.create_server(("127.0.0.1", 0)) as listener:
        siege = Siege(listener.getsockname(), random, random.randbytes(32))
        listener.settimeout(0.05)

        def serve() -> None:
            with suppress(TimeoutError), listener.accept()[0] as connection, suppress(OSError):
                impostor(siege, connection)

        siege.go_on(serve)
        rank = _Rank(_launch(siege, 2, 1), SHORT)
        try:
            rank.wait(target)
        except LossError as error:
            if "has met rank 0" in str(error):
                raise
            return "seen through"
        finally:
            handshake.SECONDS = usual
            siege.end()
    raise LossError(target, "somebody was taken for rank 0")


class _Rank:
    """A rank, which comes, and tells the others which it is."""

    def __init__(self, launch: Launch, seconds: float = LIMIT) -> None:
        self._launch, self._seconds = launch, seconds
        self._error: Exception | None = None
        self._heard: list[bytes] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            peers = TcpPeers(self._launch, self._seconds)
            self._heard = peers.share(b"%d" % self._launch.rank, "a start")
            peers.share(b"", "an end")
            peers.close()
        except Exception as error:
            self._error = error

    def wait(self, target: str) -> None:
        """Returns when it has met the others and gone; AttackError if that has not gone well."""
        self._thread.join(HANGS)
        if self._thread.is_alive():
            raise HangError(target, f"rank {self._launch.rank} waits after {HANGS:g} s")
        if isinstance(self._error, CommunicationError):
            raise LossError(target, str(self._error))
        if self._error is not None:
            raise RawError(target, repr(self._error))
        if self._heard != [b"%d" % rank for rank in range(self._launch.size)]:
            raise LossError(target, f"rank {self._launch.rank} has heard {self._heard}")

    def end(self) -> None:
        """Returns when its thread has ended."""
        self._thread.join(HANGS)


@contextmanager
def _observed(target: str) -> Iterator[list[str]]:
    """What is logged inside. RawError for anything else on stderr, for an error in a thread, for more than one line."""
    told: list[str] = []
    written, failures = io.StringIO(), list[str]()
    handler, log, usual = logging.Handler(), logging.getLogger("graphir"), threading.excepthook
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.propagate = False
    threading.excepthook = lambda failure: failures.append(repr(failure.exc_value))
    try:
        with redirect_stderr(written):
            yield told
    finally:
        threading.excepthook = usual
        log.propagate = True
        log.removeHandler(handler)
    for each in (*failures, written.getvalue()):
        if each:
            raise RawError(target, each)
    if len(told) > 1:
        raise RawError(target, f"told {len(told)} times: {told}")


def _launch(siege: Siege, size: int, rank: int) -> Launch:
    return Launch(size, rank, size, rank, siege.address, token=siege.token)


def spoken(function: Callable[..., None]) -> str:
    """A kind of stranger, as it is counted."""
    return function.__name__.replace("_", " ")


__all__ = ["Impostor", "Siege", "Stranger", "connect", "see_through", "spoken", "take", "withstand"]
