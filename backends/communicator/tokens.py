"""The token of a launch whose ranks are all on one machine, where the user has given none: a file that is theirs alone.

Rank 0 makes the token and leaves it in a folder of the user's own while the ranks come in; the others read it there.
The folder lies beside other temporary files, where anybody may have put one before: it is used only if it is this
user's, and closed to all others.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from graphir.backends.communicator.sockets import Address
from graphir.errors import CommunicationError
from graphir.launch import TOKEN

#: How one makes a token.
ADVICE = f"set {TOKEN} to the same secret for all ranks, say what `openssl rand -hex 32` prints once"


def leave_token(address: Address) -> tuple[bytes, Path]:
    """A new token, and the file in which those who meet there find it; CommunicationError if there can be none."""
    token, path = secrets.token_hex(32), _path(address)
    try:
        _make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(token)
        os.replace(name, path)
    except OSError as error:
        raise CommunicationError(
            f"rank 0 cannot leave a token for the other ranks in {path.parent}: {error.strerror or error}; {ADVICE}"
        ) from None
    return token.encode(), path


def find_token(address: Address) -> bytes | None:
    """What rank 0 has left for those who meet there; None if there is nothing that only this user can have left."""
    path = _path(address)
    try:
        return path.read_bytes() if _is_own(path.parent) else None
    except OSError:
        return None


def _path(address: Address) -> Path:
    """Whatever a host is called, the file's name is one."""
    name = hashlib.sha256(repr(address).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"graphir-{_user()}" / f"{name}.token"


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_own(folder):
        raise PermissionError(f"others than user {_user()} can read or write it")


def _is_own(folder: Path) -> bool:
    found = folder.lstat()
    own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
    return stat.S_ISDIR(found.st_mode) and own


def _user() -> int | str:
    return os.getuid() if hasattr(os, "getuid") else "own"  # where users have no numbers, each has a folder for these


__all__ = ["ADVICE", "find_token", "leave_token"]
