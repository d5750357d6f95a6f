"""How a rank that is not rank 0 comes in, by TCP: it finds rank 0, and both prove that they belong together."""

from __future__ import annotations

import socket
import time

from graphir.backends.communicator import handshake
from graphir.backends.communicator.frames import Frame, Kind, pack
from graphir.backends.communicator.sockets import reach, spoken
from graphir.backends.communicator.tokens import ADVICE, find_token
from graphir.errors import CommunicationError
from graphir.launch import TOKEN, Launch

#: Seconds until the next attempt when rank 0 has had no room.
_PAUSE = 0.2


def join(launch: Launch, seconds: float, where: str) -> socket.socket:
    """A connection to rank 0, which has heard which rank this process is, and that it is `where`.

    CommunicationError if there is none in that time, or if who is there, or this process, is none of the launch.
    """
    assert launch.master is not None
    who, there = f"rank {launch.rank}", spoken(launch.master)
    end = time.monotonic() + seconds
    while True:
        connection = reach(launch.master, seconds, who, end)
        try:
            _prove(connection, launch, min(end, time.monotonic() + handshake.SECONDS))
            connection.sendall(pack(Frame(Kind.HELLO, launch.rank, launch.size, where)))
            return connection
        except CommunicationError:
            connection.close()
            raise
        except OSError:  # no answer, or the connection is closed: it has had no room, or is about to end
            connection.close()
            if time.monotonic() > end:
                raise CommunicationError(
                    f"{who} has met somebody at {there} who for {seconds:g} s does not answer as rank 0: another "
                    f"program may have that port; choose another MASTER_PORT"
                ) from None
        time.sleep(_PAUSE)


def _prove(connection: socket.socket, launch: Launch, end: float) -> None:
    """The handshake. CommunicationError for who is no member; OSError without an answer."""
    assert launch.master is not None
    who, there = f"rank {launch.rank}", spoken(launch.master)
    challenge = _receive(connection, handshake.CHALLENGE, end, opening=True)
    if not handshake.begins_well(challenge):
        raise CommunicationError(
            f"{who} has met somebody at {there} who does not answer as rank 0: another program has that port; choose "
            f"another MASTER_PORT"
        )
    token = launch.token or find_token(launch.master)
    if token is None:
        raise CommunicationError(f"{who} has no token to show to rank 0 at {there}; {ADVICE}")
    answer = handshake.new_answer(token, challenge)
    connection.sendall(answer)
    admission = _receive(connection, handshake.ADMISSION, end)
    if admission == handshake.DENIAL:
        raise CommunicationError(
            f"rank 0 at {there} does not take {who} for a rank of its launch: its token is another; {TOKEN} has to be "
            f"the same for all ranks"
        )
    if not handshake.is_admission(token, challenge, answer, admission):
        raise CommunicationError(
            f"{who} has met somebody at {there} who does not know the token, and so is not rank 0; choose another "
            f"MASTER_PORT"
        )


def _receive(connection: socket.socket, size: int, end: float, opening: bool = False) -> bytes:
    """So many bytes, or, of a message that should open with a name, fewer that do not. OSError if they do not come."""
    data = b""
    while len(data) < size and not (opening and not handshake.begins_well(data)):
        connection.settimeout(max(1e-3, end - time.monotonic()))
        piece = connection.recv(size - len(data))
        if not piece or time.monotonic() > end:
            raise ConnectionResetError
        data += piece
    return data


__all__ = ["join"]
