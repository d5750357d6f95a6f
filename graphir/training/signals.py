"""SIGINT and SIGTERM while a run goes on: the first ends it after the step at hand, a second one at once.

Where ranks are processes, ending the step at hand takes all of them. One that has been told to end waits no longer for
the others than a step usually takes, and some seconds: they may be stopped, or gone astray.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from graphir.errors import CommunicationError, StoppedError
from graphir.interrupts import break_in


@contextmanager
def noting_signals(hurry: Callable[[], None]) -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM joins, instead of breaking in, and then `hurry`; a second breaks in.

    StoppedError where a signal was received, and other ranks no longer take part in what is to be ended.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may say what a signal does
        return

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            break_in(number, frame)
        received.append(number)
        hurry()

    listened = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in listened}
    try:
        yield received
    except CommunicationError as error:
        if not received:
            raise
        raise StoppedError(f"interrupted, and the step at hand is lost: {error}", received[0]) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
