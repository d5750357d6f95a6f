"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from graphir.errors import ConfigError
from graphir.interrupts import LEFTOVERS

_SUFFIX = ".partial"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Has `write` fill a temporary file beside `path`, brings it to the disk, and only then renames it to `path`.

    A failure in between, Ctrl-C included, leaves `path` as it was and removes the temporary file.
    Errors: ConfigError that names the file and the system's reason.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
        LEFTOVERS.add(temporary)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        LEFTOVERS.discard(temporary)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        LEFTOVERS.discard(temporary or "")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path` as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(content))


def make_folder(path: Path) -> list[Path]:
    """The folder `path`, made if need be and proved writable; ConfigError if it is not.

    Returns the folders that were not there, the innermost first.
    """
    try:
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to the folder {path}: {error.strerror or error}; choose another") from None
    return made


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of a process that was killed while it wrote."""
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def _umask() -> int:
    # mkstemp makes private files; the result shall have the permissions of any other new file. The mask
    # can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Brings the rename itself to the disk, where the system lets folders be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
