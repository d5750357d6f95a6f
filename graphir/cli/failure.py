"""How a command that fails says so: in one sentence, never by a traceback.

What a user can mend is an error of graphir's, and its text says how. Anything else is a defect: it is told with how to
report it, and its details are written into a file. `GRAPHIR_TRACE=1` shows where either was raised.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

import graphir
from graphir import interrupts
from graphir.cli.ranks import end_ranks
from graphir.errors import GraphirError, StoppedError

#: Exit codes: of what the user can mend, and of a defect.
USER, DEFECT = 2, 1
_TRACE = "GRAPHIR_TRACE"


def tell(error: BaseException) -> int:
    """Says on stderr what has ended the command; the exit code. Where there are other ranks, it ends them all."""
    if os.environ.get(_TRACE, "0") not in ("", "0") and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    _leave_stdout()
    match error:
        case KeyboardInterrupt() | click.Abort():
            end_ranks("interrupted", interrupts.CODE)
            click.echo("interrupted", err=True)
            return interrupts.CODE
        case click.UsageError():
            usage = f"{error.ctx.get_usage()}\n" if error.ctx else ""
            return _end(f"{usage}error: {error.format_message()}", USER)
        case click.ClickException():
            return _end(f"error: {error.format_message()}", USER)
        case StoppedError():
            return _end(f"error: {error}", 128 + error.signal, error.__cause__)
        case GraphirError():
            return _end(f"error: {error}", USER, error)
        case BrokenPipeError():
            return 1  # the reader has seen enough
        case OSError():
            what = error.strerror or error
            return _end(f"error: {f'{error.filename}: {what}' if error.filename else what}", USER)
        case MemoryError():
            return _end(f"error: out of memory: {error or 'smaller sizes are needed'}", USER)
    return _end(_unforeseen(error), DEFECT, error)


def _leave_stdout() -> None:
    """Writes what is left to be written; where it cannot be, Python shall not stumble over it when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(text: str, code: int, cause: BaseException | None = None) -> int:
    text = _printable(text)
    end_ranks(text, code, cause)
    click.echo(text, err=True)
    return code


def _printable(text: str) -> str:
    """With what a terminal would obey, and may stand in a name from elsewhere, written out."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


# -- defects --------------------------------------------------------------------------------------------


def _unforeseen(error: BaseException) -> str:
    """The sentence about an error that nobody has foreseen, whose details are in a file from now on."""
    first = str(error).strip().partition("\n")[0]
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    try:
        descriptor, name = tempfile.mkstemp(prefix="graphir-error-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_details(error))
        details = f"with the file {name}, which has the details ({_TRACE}=1 shows them)"
    except OSError as reason:
        details = f"with what {_TRACE}=1 shows: the details could not be written ({reason.strerror or reason})"
    return f"error: a defect of graphir ({what}); please report it as an issue of its repository, {details}"


def _details(error: BaseException) -> str:
    return (
        f"command: {shlex.join(sys.argv)}\n"
        f"graphir {graphir.__version__}, Python {platform.python_version()}, {platform.platform()}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )


@contextmanager
def defects_told() -> Iterator[None]:
    """What fails in a thread, or where Python calls back, and so ends nothing, is told in a sentence, too."""

    def in_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None and not issubclass(found.exc_type, SystemExit):
            click.echo(_printable(_unforeseen(found.exc_value)), err=True)

    def called_back(found: sys.UnraisableHookArgs) -> None:
        if issubclass(found.exc_type, KeyboardInterrupt):
            interrupts.end_now()
        if found.exc_value is not None:
            click.echo(_printable(_unforeseen(found.exc_value)), err=True)

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = in_thread, called_back
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before
