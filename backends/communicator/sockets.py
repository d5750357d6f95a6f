"""TCP between machines: where rank 0 listens, how others reach it, and how a connection is found to be dead.

A process that ends, however it ends, closes its connections, and its system tells the other end so. A machine that is
switched off, or cut off, tells nothing, and what waits for it would wait for ever. So the system is asked to probe each
connection that is silent, and to give up one on which nothing was acknowledged for `SILENCE` seconds. Systems answer
probes, not processes: one that computes, compiles or waits in a debugger is not taken for one that is gone.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time

from graphir.errors import CommunicationError

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
#: What a connection ends with that has been given up; any other end is that of the process behind it.
_SILENT = frozenset([errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN])


def listen(address: Address, backlog: int) -> socket.socket:
    """A socket that listens at the master's address, as rank 0 understands it; CommunicationError if it cannot.

    A name may mean another address to each machine, and to its own, on many, one that no other machine reaches; and an
    address may be a service's, which passes on. Then it listens at all addresses of this machine.
    """
    host, port = address
    try:
        if _is_exact(host) and is_here(address):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=backlog)
        socket.getaddrinfo(host, port)  # a name that means nothing here is a slip
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        return socket.create_server(("", port), backlog=backlog)
    except OSError as error:
        raise CommunicationError(
            f"rank 0 cannot listen at {spoken(address)} for the other ranks: {_reason(error)}; choose another "
            f"MASTER_PORT, and let MASTER_ADDR be the machine of rank 0"
        ) from None


def is_here(address: Address) -> bool:
    """Whether an address is this machine's own."""
    try:
        places = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, _, _, place in places:
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((place[0], 0, *place[2:]))
                return True
        except OSError:
            continue
    return False


def reach(address: Address, seconds: float, who: str) -> socket.socket:
    """A connection to who listens there, perhaps only after a while; CommunicationError if nobody does in that time."""
    end = time.monotonic() + seconds
    while True:
        try:
            # A packet that is lost is sent again after ever longer times: to begin anew is to be there sooner.
            found = socket.create_connection(address, timeout=max(0.1, min(_ATTEMPT, end - time.monotonic())))
            if found.getsockname() != found.getpeername():
                return watched(found)
            found.close()  # on one machine, a socket that chooses a port by itself may meet itself
        except OSError as error:
            if time.monotonic() > end:
                raise CommunicationError(
                    f"{who} finds nobody at {spoken(address)} within {seconds:.0f} s ({_reason(error)}); rank 0 has to "
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


def _is_exact(host: str) -> bool:
    """Whether a host is given by its number, or as the machine itself: the same for all who hear it."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _reason(error: OSError) -> str:
    # Python adds where it tried, which the sentence says already.
    return (error.strerror or str(error)).partition(" (while")[0]


__all__ = ["SILENCE", "Address", "is_here", "is_silence", "listen", "reach", "spoken", "watched"]
