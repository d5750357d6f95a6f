"""A rank and the witness of its machine: one of them calls it, all come to it, and each tells it how it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path


class Witnessed:
    """What a rank has to do with the witness of its machine; with none, as long as it has not come to one."""

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, seconds: float) -> str:
        """Starts a witness, and comes to it; in so many seconds ranks have to have met. Returns where others come."""
        address = Path(tempfile.mkdtemp(prefix="graphir-")) / "witness"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(socket.SOMAXCONN)
            script = Path(__file__).with_name("witness.py")
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(listener.fileno()), str(seconds)],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # the launcher ends whole process groups
            )
            self.come(str(address))
        return str(address)

    def come(self, address: str) -> None:
        """Comes to the witness that another rank has called."""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)

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
                self._connection = None  # it is gone: nobody will be reported, and nothing else is lost


__all__ = ["Witnessed"]
