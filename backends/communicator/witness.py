"""The witness: a process beside the ranks of one machine that tells which of them was killed.

A rank that is killed cannot say so, and the launcher kills the others within milliseconds, so they cannot either. The
witness is no rank: it runs in a session of its own, and every rank of the machine keeps a connection to it, which the
system closes when the rank's process ends, however it ends. Of a rank that ends without a farewell it says so on
stderr; a launcher forwards that until nobody holds stderr any more. Ranks that are still there some seconds later are
ended, so that nobody waits for ever where a launcher does not care. They are ended, too, if not all of them have come
in time: MPI's own start waits for ever for a rank that does not come, and can tell nothing meanwhile.

It is run as a plain script by a bare interpreter, and imports nothing of graphir: it is there in a moment, and small.

    rank 12342 rank 2 (dp=0, tp=2)    a rank says which process it is, and what to call it; it may do so again
    met                               all ranks of the machine have come
    bye                               it has come to the end of its program
    failed                            it ends by an error, which it tells itself, and is about to end all others
"""

import os
import selectors
import signal
import socket
import sys
import time

#: Seconds between the first rank's end and that of all others.
GRACE = 3.0


class Rank:
    """What is known of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread = b""
        self.name, self.process = "a rank", 0
        self.met, self.leaves, self.failed = False, False, False

    def hear(self) -> bool:
        """Reads what has come; False at the end."""
        try:
            data = self.connection.recv(4096)
        except OSError:
            return False
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "rank":
                process, _, self.name = rest.partition(" ")
                self.process = int(process)
            elif word == "met":
                self.met = True
            elif word == "bye":
                self.leaves = True
            elif word == "failed":
                self.failed = True
        return bool(data)


def watch(listener: socket.socket, seconds: float) -> None:
    """Returns when all ranks that have come are gone; they have so many seconds to meet."""
    with selectors.DefaultSelector() as selector:  # on Linux it tells events in the order in which they came
        selector.register(listener, selectors.EVENT_READ)
        present: list[Rank] = []
        came, met, lost, deadline = False, False, False, time.monotonic() + seconds
        while present or not came:
            wait = max(0.0, deadline - time.monotonic()) if lost or not met else None
            events = selector.select(wait)
            for key, _ in events:
                if key.data is None:
                    came = True
                    present.append(Rank(listener.accept()[0]))
                    selector.register(present[-1].connection, selectors.EVENT_READ, present[-1])
                    continue
                rank: Rank = key.data
                stays = rank.hear()
                met = met or rank.met
                if not stays:
                    selector.unregister(rank.connection)
                    present.remove(rank)
                if not lost and (rank.failed or not (stays or rank.leaves)):
                    lost, deadline = True, time.monotonic() + GRACE
                    if not rank.failed:
                        report(rank)
            if not events:
                if not lost:
                    report_missing(present, seconds)
                end(present)
                return


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


def end(ranks: list[Rank]) -> None:
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
    with socket.socket(fileno=int(sys.argv[1])) as ranks:
        try:
            watch(ranks, float(sys.argv[2]))
        finally:
            os.unlink(ranks.getsockname())
            os.rmdir(os.path.dirname(ranks.getsockname()))
