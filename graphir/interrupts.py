"""Ctrl-C on the command line: the same clean end at any moment, while modules are imported, too.

KeyboardInterrupt breaks in wherever Python happens to be. Before `main` nobody would catch it. In an import of a
package's C code, or in what Python calls back, it is printed, made into another error, or dropped. A second one breaks
into what the first one has to clean up.

So a process that is the command line (`is_command_line`) ends at once as long as there is nothing to clean up: from the
first line of this module, which is imported before all else, to the beginning of `main`, and after it. In between, the
first Ctrl-C is a KeyboardInterrupt, and whatever it becomes on its way is the end by Ctrl-C to `main`; the second ends
the process at once. A program that imports graphir keeps its signals as they are.

Python breaks in by a traceback until this module has run: so it imports no more than it needs.
"""

from __future__ import annotations

import io
import os
import signal
import sys

TYPE_CHECKING = False  # as of typing, which takes longer to load than all of this
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn, TextIO

#: The exit code of what SIGINT has ended.
CODE = 130

#: Files that are half written, which go with a process that ends at once.
LEFTOVERS: set[str] = set()


class Watch:
    """Whether Ctrl-C is watched, as it is within `watched`, and has come."""

    active = False
    interrupted = False
    _stderr: TextIO | None = None

    def __enter__(self) -> Watch:
        self._before = signal.getsignal(signal.SIGINT)
        try:
            self.active = self._before in (signal.default_int_handler, end_now)
            if self.active:
                signal.signal(signal.SIGINT, break_in)
        except ValueError:  # only the main thread may say what a signal does
            self.active = False
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self._before)
        self.unmute()
        self.active = self.interrupted = False

    def mute(self) -> None:
        """What the interruption becomes where nobody can catch it is printed to sys.stderr, and shall not be seen."""
        self._stderr, sys.stderr = sys.stderr, io.StringIO()

    def unmute(self) -> None:
        """From here on, who writes to sys.stderr has something to say."""
        if self._stderr is not None:
            sys.stderr, self._stderr = self._stderr, None


_WATCH = Watch()


def break_in(number: int, frame: FrameType | None) -> NoReturn:
    """What a signal does that is to interrupt: KeyboardInterrupt; the second, where it is watched, ends at once."""
    if _WATCH.active:
        if _WATCH.interrupted:
            end_now()
        _WATCH.interrupted = True
        _WATCH.mute()
    raise KeyboardInterrupt


def end_now(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """Ends the process as Ctrl-C does, without another word of Python's, and without what is half written."""
    for path in list(LEFTOVERS):
        try:  # noqa: SIM105  contextlib takes its time to load
            os.unlink(path)
        except OSError:
            pass
    try:  # noqa: SIM105
        os.write(2, b"interrupted\n")
    except OSError:
        pass
    os._exit(CODE)


def watched() -> Watch:
    """As a context manager, watches Ctrl-C, unless it does something unusual, or is none of this thread's business."""
    return _WATCH


def is_command_line() -> bool:
    """Whether this process is `graphir …` or `python -m graphir …`."""
    name: str = (getattr(sys, "argv", None) or [""])[0]
    if name == "-m":  # so it is while Python looks for the module
        words = list(zip(sys.orig_argv, sys.orig_argv[1:], strict=False))
        return ("-m", "graphir") in words or "-mgraphir" in sys.orig_argv
    return os.path.basename(name).partition(".")[0] == "graphir"


if is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_now)
