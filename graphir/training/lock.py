"""A folder that one training at a time writes into.

The system holds the lock, on the file `.graphir.lock`, and lets go of it when its process ends, however that ends; so
what a process that was killed has left there locks nobody out. Who holds it is written into the file, for people to
read, and for two kinds of file system that the system's word is not enough for:

- One that has no locks: there, a holder on this machine is looked for among its processes; one on another machine
  cannot be, and is believed.
- One that locks for each machine alone, as NFS can be mounted: there, two may hold it at once. Who came first finds
  another's name in the file before it writes its next checkpoint, and ends.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from graphir.errors import ConfigError
from graphir.reading import read_json

NAME = ".graphir.lock"
#: More bytes than a holder's name takes.
_LONGEST = 4096
#: A link that somebody has put there would lead to what is not to be written over.
_MODE = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)

if sys.platform == "win32":
    import msvcrt

    _BUSY: tuple[type[OSError], ...] = (PermissionError,)
    #: A byte far behind the holder's name: nobody may read what is locked.
    _FAR = 1 << 30

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    _BUSY = (BlockingIOError,)

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass(frozen=True)
class Holder:
    """Who trains into a folder: a process of a machine, and since when.

    birth   when the process began, in the system's own count, where that can be read: numbers of processes come again
    """

    host: str
    pid: int
    birth: str
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _birth(os.getpid()), now)

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """Who has written that into the file; None of what is no holder's."""
        try:
            said = read_json(content.decode())
            kinds = {"host": str, "pid": int, "birth": str, "since": str}
            if not isinstance(said, dict) or {name: type(each) for name, each in said.items()} != kinds:
                return None
        except ValueError:
            return None
        return cls(**said)

    def __str__(self) -> str:
        where = "this machine" if self.is_here else f"the machine {self.host}"
        return f"process {self.pid} on {where}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def may_live(self) -> bool:
        """False if it is known to have ended."""
        if not self.is_here or sys.platform == "win32":
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            return True
        return self.birth in ("", _birth(self.pid))


def _birth(pid: int) -> str:
    """When the process began, in the kernel's count since it was started; empty where that cannot be read."""
    try:
        # Its second field, a name in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class FolderLock:
    """The lock on a folder that is there, taken; ConfigError, naming the holder, where another has it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._name = b""
        self._descriptor: int | None = self._take()

    def require(self) -> None:
        """ConfigError if another has taken the folder over, which it can where the system holds no locks."""
        try:
            content = _read(self.path)
        except FileNotFoundError:  # somebody has tidied up
            self._release()
            self._descriptor = self._take()
            return
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror or error}") from None
        if content != self._name:
            raise ConfigError(
                f"{self.folder} has been taken over by {Holder.read(content) or 'another training'}; this one ends "
                "without writing into it. Let one of them go on, the other elsewhere, by another --out"
            )

    def release(self) -> None:
        """Lets go of it, and removes its file; nothing if it has been taken over."""
        with suppress(OSError):
            # The file goes while it is locked, so that nobody locks one that is about to go; Windows has it the other
            # way round, where what somebody has opened cannot go.
            if _read(self.path) == self._name:
                if sys.platform == "win32":
                    self._release()
                self.path.unlink()
        self._release()

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> int:
        try:
            while True:
                descriptor = os.open(self.path, _MODE, 0o666)
                try:
                    self._claim(descriptor)
                    if os.path.samestat(os.stat(self.path), os.fstat(descriptor)):
                        self._sign(descriptor)
                        return descriptor
                except FileNotFoundError:
                    pass  # whoever had it has removed the file meanwhile
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(
                f"cannot write to the folder {self.folder}: {error.strerror or error}; choose another"
            ) from None

    def _sign(self, descriptor: int) -> None:
        """Writes this process's name into the file, which is its own; removes it where that cannot be."""
        self._name = json.dumps(asdict(Holder.here())).encode()
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            if os.write(descriptor, self._name) < len(self._name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def _claim(self, descriptor: int) -> None:
        """Locks the file; ConfigError where another has."""
        try:
            _lock(descriptor)
        except _BUSY:
            raise ConfigError(self._refusal(Holder.read(_read(self.path)))) from None
        except OSError:  # this file system has no locks
            holder = Holder.read(_read(self.path))
            if holder is not None and holder.may_live:
                unseen = "" if holder.is_here else f"; if that has ended, remove {self.path}"
                raise ConfigError(self._refusal(holder) + unseen) from None

    def _refusal(self, holder: Holder | None) -> str:
        return (
            f"{self.folder} is being trained into by {holder or 'another process'}; wait for its end, stop it, or "
            "choose another --out"
        )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LONGEST)
