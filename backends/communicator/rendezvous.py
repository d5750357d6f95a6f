"""The rendezvous: where ranks come in that no MPI has brought together, and where nobody else does.

Whoever reaches the port is a *newcomer*. It is believed nothing until it has proved that it knows the token of the
launch (`handshake`); then it says which rank it is, and is a *member*. A newcomer has some seconds for that, and there
are so many of them at most: of those that the most crowded address has sent, the one that came first has to make room
for the next. A rank that has had to, by accident, comes again. What a newcomer does, whatever it is, ends its own
connection and nothing else, and of all that are turned away the first is told of.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from graphir.backends.communicator import handshake
from graphir.backends.communicator.frames import Frame, Kind, Reader, pack
from graphir.backends.communicator.sockets import Address, bind, close, listen, spoken, watched
from graphir.backends.communicator.tokens import ADVICE, leave_token
from graphir.errors import CommunicationError
from graphir.launch import LISTEN, TOKEN, Launch

#: How many newcomers there are at most at a time.
NEWCOMERS = 128
#: Connections that the system holds ready, and that are accepted in one go.
_BACKLOG, _AT_ONCE = 1024, 64
#: Seconds until the next attempt when the system can accept no connection, for want of descriptors, say.
_PAUSE = 0.1
#: The longest text of a hello, in bytes.
_TEXT = 1024

_log = logging.getLogger("graphir")


@dataclass(frozen=True)
class Member:
    """A rank that has come in: its connection, and which process on which machine it is."""

    connection: socket.socket
    where: str


@dataclass(eq=False)
class _Newcomer:
    """A connection of which it is not known yet whether it is a rank's, and when that has to be known."""

    connection: socket.socket
    place: Address
    deadline: float
    challenge: bytes = field(default_factory=handshake.new_challenge)
    answer: bytes = b""
    proved: bool = False
    reader: Reader = field(default_factory=lambda: Reader([Kind.HELLO], _TEXT, data=0))

    def hear(self, token: bytes) -> Frame | None:
        """Its hello, once it is there. ValueError or OSError for what no member does."""
        # No byte is read that is not asked for.
        wanted = 4096 if self.proved else handshake.ANSWER - len(self.answer)
        data = self.connection.recv(wanted)
        if not data:
            raise ValueError("went away without a word" if not self.answer else "went away in the middle of a word")
        if self.proved:
            return next(self.reader.feed(data), None)
        self.answer += data
        if not handshake.begins_well(self.answer):
            raise ValueError("speaks of something else")
        if len(self.answer) == handshake.ANSWER:
            if not handshake.is_answer(token, self.challenge, self.answer):
                self.connection.sendall(handshake.DENIAL)
                raise ValueError(f"does not know the token of this launch; {TOKEN} has to be the same for all ranks")
            self.connection.sendall(handshake.new_admission(token, self.challenge, self.answer))
            self.proved = True
        return None


class Rendezvous:
    """Lets the ranks of `launch` come in; it listens until it is closed.

    CommunicationError if it cannot listen.
    """

    def __init__(self, launch: Launch, seconds: float) -> None:
        assert launch.master is not None
        self._size, self._seconds = launch.size, seconds
        self._members: dict[int, Member] = {}
        self._newcomers: list[_Newcomer] = []
        self._turned_away, self._paused_until = 0, 0.0
        self._address = (launch.listen or launch.master[0], launch.master[1])
        apart = launch.local < launch.size
        if apart and launch.token is None:
            raise CommunicationError(f"ranks on several machines need a token to know each other by; {ADVICE}")
        with ExitStack() as held:
            self._listeners = bind(self._address, apart=apart and launch.listen is None)
            held.callback(close, self._listeners)
            self._selector = held.enter_context(selectors.DefaultSelector())
            if launch.token is not None:
                self._token = launch.token
            else:  # the port is ours, so nobody else leaves a token for it; who reaches it finds one
                self._token, path = leave_token(launch.master)
                held.callback(path.unlink, missing_ok=True)
            listen(self._listeners, self._address, _BACKLOG)
            self._held = held.pop_all()

    def meet(self, own: Member) -> dict[int, Member]:
        """All ranks, when they have come, rank 0 by a connection of its own; from then on, nobody else comes.

        CommunicationError, which those who came have been told, if not all come within the seconds given, or one goes,
        or two cannot both be right.
        """
        end = time.monotonic() + self._seconds
        self._members[0] = own
        self._watch(self._listeners)
        self._selector.register(own.connection, selectors.EVENT_READ, partial(self._lose, 0))
        try:
            while len(self._members) < self._size:
                now = time.monotonic()
                if now >= end:
                    raise CommunicationError(self._missing())
                self._turn(now, end)
        except Exception as error:
            why = str(error) if isinstance(error, CommunicationError) else f"rank 0 has failed: {error!r}"
            for member in reversed(self._members.values()):  # with rank 0's process this ends
                _refuse(member.connection, why)
            raise CommunicationError(why) from error
        finally:
            self.close()
        return self._members

    def close(self) -> None:
        """Listens no more."""
        self._held.close()
        close(each.connection for each in self._newcomers)

    # -- turns ----------------------------------------------------------------------------------------

    def _turn(self, now: float, end: float) -> None:
        """Waits for whatever comes next, and sees to it."""
        for each in [each for each in self._newcomers if now >= each.deadline]:
            self._turn_away(each, f"was given {handshake.SECONDS:g} s to prove that it is a rank")
        if 0 < self._paused_until <= now:
            self._watch(self._listeners)
            self._paused_until = 0.0
        times = [end, *(each.deadline for each in self._newcomers), *([self._paused_until] * (self._paused_until > 0))]
        for key, _ in self._selector.select(max(0.0, min(times) - now)):
            key.data()

    def _watch(self, listeners: list[socket.socket]) -> None:
        for each in listeners:
            self._selector.register(each, selectors.EVENT_READ, partial(self._accept, each))

    def _accept(self, listener: socket.socket) -> None:
        """Takes in who is waiting at the door."""
        for _ in range(_AT_ONCE):
            try:
                connection, place = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it has gone already
            except OSError as error:
                self._tell(f"rank 0 cannot accept a connection at {spoken(self._address)}: {error.strerror}")
                for each in self._listeners:
                    self._selector.unregister(each)
                self._paused_until = time.monotonic() + _PAUSE
                return
            self._receive(connection, (place[0], place[1]))

    def _receive(self, connection: socket.socket, place: Address) -> None:
        if len(self._newcomers) >= NEWCOMERS:
            crowd = Counter(each.place[0] for each in self._newcomers).most_common(1)[0][0]
            first = next(each for each in self._newcomers if each.place[0] == crowd)
            self._turn_away(first, "was one of too many")
        newcomer = _Newcomer(connection, place, time.monotonic() + handshake.SECONDS)
        self._newcomers.append(newcomer)
        try:
            connection.setblocking(False)
            self._selector.register(watched(connection), selectors.EVENT_READ, partial(self._hear, newcomer))
            connection.sendall(newcomer.challenge)
        except OSError as error:
            self._turn_away(newcomer, str(error))

    def _hear(self, newcomer: _Newcomer) -> None:
        if newcomer not in self._newcomers:
            return  # it has had to make room in this very turn
        try:
            hello = newcomer.hear(self._token)
            if hello is not None and not 0 <= hello.rank < hello.number:
                raise ValueError(f"says that it is rank {hello.rank} of {hello.number}")
        except BlockingIOError:
            return
        except Exception as error:
            self._turn_away(newcomer, str(error))
            return
        if hello is not None:
            self._admit(newcomer, hello)

    def _turn_away(self, newcomer: _Newcomer, why: str) -> None:
        self._newcomers.remove(newcomer)
        if newcomer.connection in self._selector.get_map():
            self._selector.unregister(newcomer.connection)
        newcomer.connection.close()
        who, there = spoken(newcomer.place), spoken(self._address)
        self._tell(f"rank 0, which waits for the other ranks at {there}, has turned away {who}, which {why}")

    def _tell(self, what: str) -> None:
        """Tells the first that was turned away; there may be thousands."""
        if not self._turned_away:
            _log.warning("%s; others like it are not told of", what)
        self._turned_away += 1

    # -- members --------------------------------------------------------------------------------------

    def _admit(self, newcomer: _Newcomer, hello: Frame) -> None:
        """A newcomer becomes a member. CommunicationError, which it is told, if ranks contradict each other."""
        self._newcomers.remove(newcomer)
        self._selector.modify(newcomer.connection, selectors.EVENT_READ, partial(self._lose, hello.rank))
        why = ""
        if hello.number != self._size:
            why = (
                f"rank {hello.rank} ({hello.text}) says WORLD_SIZE={hello.number}, but rank 0 says "
                f"WORLD_SIZE={self._size}; all must say the same"
            )
        elif hello.rank in self._members:
            one, other = self._members[hello.rank].where, hello.text
            why = f"{one} and {other} both say RANK={hello.rank}; each needs one of its own"
        if why:
            _refuse(newcomer.connection, why)
            raise CommunicationError(why)
        newcomer.connection.setblocking(True)
        self._members[hello.rank] = Member(newcomer.connection, hello.text)

    def _lose(self, rank: int) -> None:
        """A member has nothing to say before it has been welcomed, so that its connection has ended."""
        member = self._members.pop(rank)
        member.connection.close()
        raise CommunicationError(f"rank {rank} ({member.where}) came, and was gone before all others had come")

    def _missing(self) -> str:
        lacking = [rank for rank in range(self._size) if rank not in self._members]
        away = f" ({self._turned_away} connections were turned away)" if self._turned_away else ""
        return (
            f"of {self._size} ranks only {_listed(sorted(self._members))} came within {self._seconds:g} s, and "
            f"{_listed(lacking)} did not{away}; start every RANK from 0 to {self._size - 1} with the same MASTER_ADDR, "
            f"MASTER_PORT and {TOKEN}; rank 0 listened at {self._places()}, where its machine has to accept "
            f"connections; {LISTEN} lets it listen elsewhere"
        )

    def _places(self) -> str:
        return " and ".join(spoken(each.getsockname()[:2]) for each in self._listeners)


def _refuse(connection: socket.socket, why: str) -> None:
    with suppress(OSError):  # it has gone by itself
        connection.setblocking(True)
        connection.sendall(pack(Frame(Kind.REFUSED, text=why)))
    connection.close()


def _listed(ranks: list[int]) -> str:
    if not ranks:
        return "none"
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


__all__ = ["NEWCOMERS", "Member", "Rendezvous"]
