"""A rank and the witness of its machine: one of them calls it, all come to it, and each tells it how it ends."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from graphir.backends.communicator.witness import WITNESS, prove

#: The longest line that a witness says, in bytes.
_LINE = 100


class Witnessed:
    """What a rank has to do with the witness of its machine; with none, as long as it has not come to one."""

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._token = b""

    def call(self, rank: int, seconds: float) -> str:
        """Starts a witness, and comes to it; ranks have so many seconds to meet. Returns what others need to come."""
        address = Path(tempfile.mkdtemp(prefix="graphir-")) / "witness"
        place = f"{secrets.token_hex(32)} {address}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(socket.SOMAXCONN)
            script = Path(__file__).with_name("witness.py")
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
            self.come(place, rank)
        return place

    def come(self, place: str, rank: int) -> None:
        """Comes to the witness that is there, as that rank."""
        token, _, address = place.partition(" ")
        self._connection, self._token = socket.socket(socket.AF_UNIX), token.encode()
        try:
            self._connection.connect(address)
        except OSError:
            self.leave()
        self.tell(f"come {rank} {prove(self._token, str(rank).encode()).decode()}")

    def meet(self, seconds: float) -> None:
        """Returns when the witness sees this rank; without one, nobody is reported, and nothing else is lost."""
        if self._connection is not None:
            self._connection.settimeout(seconds)
            try:
                with self._connection.makefile("rb") as said:
                    met = said.readline(_LINE).strip() == prove(self._token, WITNESS)
            except OSError:
                met = False
            self._connection.settimeout(None)
            if not met:
                self.leave()

    def leave(self) -> None:
        """Goes, as by the end of this process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def has_come(self) -> bool:
        """Whether there is a witness."""
        return self._connection is not None

    def tell(self, line: str) -> None:
        """Says something that `witness` knows."""
        if self._connection is not None:
            try:
                self._connection.sendall(f"{line}\n".encode())
            except OSError:
                self.leave()  # it is gone: nobody will be reported, and nothing else is lost


__all__ = ["Witnessed"]
