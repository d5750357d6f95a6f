"""What must not happen, whatever is attacked: a raw error, a loss, a hang."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar, NoReturn


class AttackError(Exception):
    """Something that must not happen has happened to `target`, which is what the attack yields first for a trial.

    The text says what, and holds all that is needed to see it again: the input, or the seed that it was drawn from.
    """

    #: Under which heading it is counted.
    column: ClassVar[str]

    def __init__(self, target: str, text: str) -> None:
        super().__init__(target, text)
        self.target = target

    def __str__(self) -> str:
        return ": ".join(self.args)


class RawError(AttackError):
    """A traceback, an error that is none of graphir's, a process that crashed."""

    column = "raw errors"


class LossError(AttackError):
    """Work that was lost, other numbers than without the attack, someone in who must stay out, memory that grows."""

    column = "losses"


class HangError(AttackError):
    """Something that has not ended within its limit."""

    column = "hangs"


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """This process may take so many bytes of addresses in all; who asks for more gets a MemoryError."""
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


@contextmanager
def limited(target: str, seconds: float, text: str) -> Iterator[None]:
    """HangError, with `text`, where the block has not ended after so many seconds; in the main thread alone."""

    def hang(number: int, frame: FrameType | None) -> NoReturn:
        raise HangError(target, f"no end within {seconds:g} s: {text}")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
