"""The witness: a process beside the ranks of one machine that tells which of them was killed.

A rank that is killed cannot say so, and the launcher kills the others within milliseconds, so they cannot either. The
witness is no rank: it runs in a session of its own, and every rank of the machine keeps a connection to it, which the
system closes when the rank's process ends, however it ends. Of a rank that ends without a farewell it says so on
stderr; a launcher forwards that until nobody holds stderr any more. Ranks that are still there some seconds later are
ended, so that nobody waits for ever where a launcher does not care.

It is run as a plain script by a bare interpreter, and imports nothing of graphir: it is there in a moment, and small.

    rank 12342 rank 2 (dp=0, tp=2)    a rank says which process it is, and what to call it; it may do so again
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
#: Seconds to wait for the first rank.
PATIENCE = 60.0


class Rank:
    """What is known of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread = b""
        self.name, self.process = "a rank", 0
        self.leaves, self.failed = False, False

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
            elif word == "bye":
                self.leaves = True
            elif word == "failed":
                self.failed = True
        return bool(data)


def watch(listener: socket.socket) -> None:
    """Returns when all ranks that have come are gone."""
    with selectors.DefaultSelector() as selector:  # on Linux it tells events in the order in which they came
        selector.register(listener, selectors.EVENT_READ)
        present: list[Rank] = []
        came, lost, deadline = False, False, time.monotonic() + PATIENCE
        while present or not came:
            wait = max(0.0, deadline - time.monotonic()) if lost or not came else None
            events = selector.select(wait)
            for key, _ in events:
                if key.data is None:
                    came = True
                    present.append(Rank(listener.accept()[0]))
                    selector.register(present[-1].connection, selectors.EVENT_READ, present[-1])
                    continue
                rank: Rank = key.data
                stays = rank.hear()
                if not stays:
                    selector.unregister(rank.connection)
                    present.remove(rank)
                if not lost and (rank.failed or not (stays or rank.leaves)):
                    lost, deadline = True, time.monotonic() + GRACE
                    if not rank.failed:
                        report(rank)
            if not events:
                end(present)
                return


def report(rank: Rank) -> None:
    """Says that a rank is gone."""
    where = f"process {rank.process} on {socket.gethostname()}"
    text = f"error: {rank.name} is gone: its {where} was killed or has crashed; all ranks stop\n"
    os.write(sys.stderr.fileno(), text.encode())


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
    watch(socket.socket(fileno=int(sys.argv[1])))
