"""TCP between machines: where rank 0 listens, how others reach it, and how a connection is found to be dead.

A process that ends, however it ends, closes its connections, and its system tells the other end so. A machine that is
switched off, or cut off, tells nothing, and what waits for it would wait for ever. So the system is asked to probe each
connection that is silent, and to give up one on which nothing was acknowledged for `SILENCE` seconds. Systems answer
probes, not processes: one that computes, compiles or waits in a debugger is not taken for one that is gone.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from graphir.errors import CommunicationError
from graphir.launch import LISTEN

Address = tuple[str, int]

#: Seconds without a sign of life after which a connection is given up: more than a cable that is put back takes.
SILENCE = 10
#: Seconds for one attempt to reach an address that may be there later, and between two.
_ATTEMPT, _PAUSE = 3.0, 0.05
#: The system's options, where it has them: when it begins to probe, how often, when it gives up. macOS has another name
#: for the first.
_IDLE = 3
_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": _IDLE,
    "TCP_KEEPALIVE": _IDLE,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": SILENCE - _IDLE,
    "TCP_USER_TIMEOUT": 1000 * SILENCE,  # of what was sent and not acknowledged, which is not probed
}
#: What an address is refused with that is another machine's, or of a kind that this one has not.
_ELSEWHERE = frozenset([errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL])
#: What a connection ends with that has been given up; any other end is that of the process behind it.
_SILENT = frozenset([errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN])


def bind(address: Address, apart: bool = False) -> list[socket.socket]:
    """Sockets at every address of this machine that the host means here, and at no other; none listens yet.

    With `apart`, they must be such as other machines reach. CommunicationError if that cannot be.
    """
    host, port = address
    bound: list[socket.socket] = []
    try:
        places = {place: family for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        for place, family in places.items():
            try:
                bound.append(_bind(family, place))
            except OSError as error:
                if error.errno not in _ELSEWHERE:
                    raise
    except (OSError, UnicodeError) as error:
        close(bound)
        raise CommunicationError(_deaf(address, error)) from None
    means = f"which here means {', '.join(str(place[0]) for place in places)}"
    if not bound:
        raise CommunicationError(
            f"rank 0 cannot listen at {spoken(address)}, {means}, no address of its machine: let MASTER_ADDR be one of "
            f"them, or, if connections to it are passed on, {LISTEN} the address at which they arrive"
        )
    if apart and all(ipaddress.ip_address(each.getsockname()[0]).is_loopback for each in bound):
        close(bound)
        raise CommunicationError(
            f"other machines do not reach rank 0 at {spoken(address)}, {means}: let MASTER_ADDR, or {LISTEN} on rank "
            f"0's machine, be an address that they reach"
        )
    return bound


def listen(bound: list[socket.socket], address: Address, backlog: int) -> None:
    """From now on others reach these sockets. CommunicationError if that cannot be."""
    try:
        for each in bound:
            each.listen(backlog)
            each.setblocking(False)
    except OSError as error:
        raise CommunicationError(_deaf(address, error)) from None


def close(sockets: Iterable[socket.socket]) -> None:
    """Closes all of them."""
    for each in sockets:
        each.close()


def _deaf(address: Address, error: OSError | UnicodeError) -> str:
    return (
        f"rank 0 cannot listen at {spoken(address)} for the other ranks: {_reason(error)}; choose another MASTER_PORT, "
        f"and let MASTER_ADDR be the machine of rank 0"
    )


def _bind(family: int, place: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it means that others may listen there, too
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(place)
    except OSError:
        made.close()
        raise
    return made


def reach(address: Address, seconds: float, who: str, end: float | None = None) -> socket.socket:
    """A connection to who listens there, perhaps only after a while; CommunicationError if nobody does in that time.

    With `end`, the time is over then, whenever it began.
    """
    end = time.monotonic() + seconds if end is None else end
    while True:
        try:
            # A packet that is lost is sent again after ever longer times: to begin anew is to be there sooner.
            found = socket.create_connection(address, timeout=max(0.1, min(_ATTEMPT, end - time.monotonic())))
            if found.getsockname() != found.getpeername():
                return watched(found)
            found.close()  # on one machine, a socket that chooses a port by itself may meet itself
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end or isinstance(error, UnicodeError):
                raise CommunicationError(
                    f"{who} finds nobody at {spoken(address)} within {seconds:g} s ({_reason(error)}); rank 0 has to "
                    f"be started there, and MASTER_ADDR and MASTER_PORT be the same for all ranks"
                ) from None
        time.sleep(_PAUSE)


def watched(connection: socket.socket) -> socket.socket:
    """The same connection, which from now on ends if the other end is silent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def is_silence(error: OSError | None) -> bool:
    """Whether a connection has ended because the other end was silent, rather than by the end of a process."""
    return error is not None and error.errno in _SILENT


def spoken(address: Address) -> str:
    """An address as one writes it: `gpu0:29500`, `[fd00::1]:29500`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "that is no name of a host"
    # Python adds where it tried, which the sentence says already.
    return (error.strerror or str(error)).partition(" (while")[0]


__all__ = ["SILENCE", "Address", "bind", "close", "is_silence", "listen", "reach", "spoken", "watched"]
