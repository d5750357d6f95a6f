"""A TCP port for a test."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of this machine at which nothing listens, with the next one free, too."""
    while True:
        with socket.socket() as one, socket.socket() as next:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                next.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
