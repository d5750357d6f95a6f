"""The watchdog: a process beside the ranks of one machine that tells which of them was killed.

A rank that is killed cannot say so, and the launcher kills the others within milliseconds, so they cannot either. The
watchdog is no rank: it runs in a session of its own, and every rank of the machine keeps a connection to it, which the
system closes when the rank's process ends, however it ends. Of a rank that ends without a farewell it says so on
stderr; a launcher forwards that until nobody holds stderr any more. Ranks that are still there some seconds later are
ended, so that nobody waits for ever where a launcher does not care. They are ended, too, if not all of them have come
in time: MPI's own start waits for ever for a rank that does not come, and can tell nothing meanwhile.

It is run as a plain script by a bare interpreter, and imports nothing of graphir: it is there in a moment, and small.

    come 2 8f0c…                      a rank says which one it is, and proves it; before, nothing else is listened to
    rank 12342 rank 2 (dp=0, tp=2)    it says which process it is, and what to call it; it may do so again
    met                               all ranks of the machine have come
    bye                               it has come to the end of its program
    failed                            it ends by an error, which it tells itself, and is about to end all others

Its socket lies in a folder of the user's own, and is there until ranks have met. The proof is the HMAC of the rank's
number, by SHA-256 and a token that the watchdog reads from stdin, and that ranks get by MPI. A process that does not
know the token is sent away, and does no harm by coming. One that does is answered by one line, the watchdog's own
proof: from then on the watchdog sees how that rank ends.
"""

import hmac
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

#: Seconds between the first rank's end and that of all others.
GRACE = 3.0
#: Who proves something, where it is no rank.
WATCHDOG = b"watchdog"
#: The longest line, in bytes, and the most connections that have proved nothing.
_LINE, _STRANGERS = 4096, 64
#: Seconds until the next attempt when the system can accept no connection.
_PAUSE = 0.1


class Rank:
    """What is known of one connection: whose it is, once that is proved."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread = b""
        self.number = -1
        self.name, self.process = "a rank", 0
        self.met, self.leaves, self.failed = False, False, False

    def hear(self, token: bytes) -> bool:
        """Reads what has come; False at the end, or for what no rank says."""
        try:
            data = self.connection.recv(_LINE)
            *lines, self.unread = (self.unread + data).split(b"\n")
            for line in lines:
                self.take(line, token)
        except (OSError, ValueError):
            return False
        return bool(data) and len(self.unread) <= _LINE

    def take(self, line: bytes, token: bytes) -> None:
        """One line. ValueError for what no rank says."""
        word, _, rest = line.partition(b" ")
        if self.number < 0:
            number, _, proof = rest.partition(b" ")
            if word != b"come" or not number.isdigit() or not hmac.compare_digest(proof, prove(token, number)):
                raise ValueError("no rank")
            self.number = int(number)
        elif word == b"rank":
            process, _, name = rest.partition(b" ")
            self.process, self.name = int(process), name.decode()
        elif word == b"met":
            self.met = True
        elif word == b"bye":
            self.leaves = True
        elif word == b"failed":
            self.failed = True


def prove(token: bytes, who: bytes) -> bytes:
    """What only the rank of that number, or the watchdog, says."""
    return hmac.digest(token, who, "sha256").hex().encode()


class Watchdog:
    """Watches the ranks of this machine that come to `listener`, and have so many seconds to meet."""

    def __init__(self, listener: socket.socket, token: bytes, seconds: float) -> None:
        self._listener, self._token, self._seconds = listener, token, seconds
        self._ranks: dict[int, Rank] = {}
        self._strangers: list[Rank] = []
        self._came = self._met = self._lost = False
        self._deadline = time.monotonic() + seconds
        self._selector = selectors.DefaultSelector()  # on Linux it tells events in the order in which they came
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def watch(self) -> None:
        """Returns when all ranks that have come are gone."""
        while self._ranks or not self._came:
            limited = self._lost or not self._met
            for key, _ in self._selector.select(max(0.0, self._deadline - time.monotonic()) if limited else None):
                key.data()
            if (self._lost or not self._met) and time.monotonic() >= self._deadline:
                if not self._lost:
                    report_missing(list(self._ranks.values()), self._seconds)
                end(self._ranks.values())
                return

    def close(self) -> None:
        """Leaves nothing behind."""
        self._shut()
        for each in (*self._strangers, *self._ranks.values()):
            each.connection.close()
        self._selector.close()

    def _shut(self) -> None:
        """From now on nobody comes any more."""
        if self._listener.fileno() >= 0:
            place = self._listener.getsockname()
            self._selector.unregister(self._listener)
            self._listener.close()
            with suppress(OSError):  # somebody may have cleaned up
                os.unlink(place)
                os.rmdir(os.path.dirname(place))

    def _accept(self) -> None:
        try:
            newcomer = Rank(self._listener.accept()[0])
        except OSError:
            time.sleep(_PAUSE)
            return
        if len(self._strangers) == _STRANGERS:
            self._drop(self._strangers.pop(0))
        self._strangers.append(newcomer)
        self._selector.register(newcomer.connection, selectors.EVENT_READ, partial(self._hear, newcomer))

    def _hear(self, rank: Rank) -> None:
        if rank.connection.fileno() < 0:
            return  # it has just had to make room for another
        stays = rank.hear(self._token)
        if rank in self._strangers:
            if stays and rank.number < 0:
                return
            self._strangers.remove(rank)
            if not stays or rank.number in self._ranks:
                self._drop(rank)
                return
            self._came, self._ranks[rank.number] = True, rank
            with suppress(OSError):  # that it has gone will be heard
                rank.connection.sendall(prove(self._token, WATCHDOG) + b"\n")
        if rank.met and not self._met:
            self._met = True
            self._shut()
        if not stays:
            self._drop(self._ranks.pop(rank.number))
        if not self._lost and (rank.failed or not (stays or rank.leaves)):
            self._lost, self._deadline = True, time.monotonic() + GRACE
            if not rank.failed:
                report(rank)

    def _drop(self, rank: Rank) -> None:
        self._selector.unregister(rank.connection)
        rank.connection.close()


def report_missing(present: list[Rank], seconds: float) -> None:
    """Says that not all ranks have met."""
    names, verb = ", ".join(rank.name for rank in present), "has" if len(present) == 1 else "have"
    tell(
        f"error: {names} on {socket.gethostname()} {verb} waited {seconds:g} s for all ranks to begin with MPI; one of "
        f"them has ended before that, or hangs, and all stop"
    )


def report(rank: Rank) -> None:
    """Says that a rank is gone."""
    where = f"process {rank.process} on {socket.gethostname()}"
    tell(f"error: {rank.name} is gone: its {where} was killed or has crashed; all ranks stop")


def tell(text: str) -> None:
    """Writes a line to stderr."""
    os.write(sys.stderr.fileno(), f"{text}\n".encode())


def end(ranks: Iterable[Rank]) -> None:
    """Ends the ranks that are left."""
    for rank in ranks:
        if rank.process:
            try:
                os.kill(rank.process, signal.SIGKILL)
            except OSError:
                continue


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watchdog = Watchdog(socket.socket(fileno=int(sys.argv[1])), sys.stdin.buffer.readline().strip(), float(sys.argv[2]))
    try:
        watchdog.watch()
    finally:
        watchdog.close()
