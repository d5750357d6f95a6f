"""A rank and the watchdog of its machine: one of them starts it, all connect to it, and each tells it how it ends."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from graphir.backends.communicator.watchdog import WATCHDOG, prove

#: The longest line that a watchdog says, in bytes.
_LINE = 100


class WatchdogClient:
    """What a rank has to do with the watchdog of its machine; with none, as long as it is not connected to one."""

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._token = b""

    def start(self, rank: int, seconds: float) -> str:
        """Starts a watchdog and connects to it; ranks have so many seconds to meet. Returns what others connect by."""
        address = Path(tempfile.mkdtemp(prefix="graphir-")) / "watchdog"
        place = f"{secrets.token_hex(32)} {address}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(socket.SOMAXCONN)
            script = Path(__file__).with_name("watchdog.py")
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(listener.fileno()), str(seconds)],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # the launcher ends whole process groups
            )
            assert self._process.stdin is not None
            with self._process.stdin as told:
                told.write(place.partition(" ")[0].encode() + b"\n")
            self.connect(place, rank)
        return place

    def connect(self, place: str, rank: int) -> None:
        """Connects to the watchdog that is there, as that rank."""
        token, _, address = place.partition(" ")
        self._connection, self._token = socket.socket(socket.AF_UNIX), token.encode()
        try:
            self._connection.connect(address)
        except OSError:
            self.close()
        self.tell(f"come {rank} {prove(self._token, str(rank).encode()).decode()}")

    def meet(self, seconds: float) -> None:
        """Returns when the watchdog sees this rank; without one, nobody is reported, and nothing else is lost."""
        if self._connection is not None:
            self._connection.settimeout(seconds)
            try:
                with self._connection.makefile("rb") as said:
                    met = said.readline(_LINE).strip() == prove(self._token, WATCHDOG)
            except OSError:
                met = False
            self._connection.settimeout(None)
            if not met:
                self.close()

    def close(self) -> None:
        """Disconnects, as by the end of this process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def is_connected(self) -> bool:
        """Whether a watchdog sees this rank."""
        return self._connection is not None

    def tell(self, line: str) -> None:
        """Says something that `watchdog` knows."""
        if self._connection is not None:
            try:
                self._connection.sendall(f"{line}\n".encode())
            except OSError:
                self.close()  # it is gone: nobody will be reported, and nothing else is lost


__all__ = ["WatchdogClient"]
