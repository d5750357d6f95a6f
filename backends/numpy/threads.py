"""Threads of our own: each runs its list of calls, and they meet where one needs what another made.

NumPy's functions and BLAS let go of the interpreter's lock while they compute; with BLAS held to one thread, two
Python threads that work on different rows keep two cores busy from end to end of a step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from graphir.backends.compiled.writer import Call
from graphir.launch import find_launch


def default_threads() -> int:
    """As many threads as this process has processors; of several ranks on a machine, each has its share."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        processors = os.cpu_count() or 1
    launch = find_launch()
    return processors if launch is None else launch.share(processors)


class Barrier:
    """Where threads wait for one another: in rounds, each passes a token on to the one 1, 2, 4, … further."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        rounds = max(threads - 1, 0).bit_length()
        self._queues: list[list[SimpleQueue[bool]]] = [[SimpleQueue() for _ in range(threads)] for _ in range(rounds)]

    def wait(self, thread: int) -> None:
        """Returns when all threads have come here; raises `AbortedError` when one of them has failed."""
        step = 1
        for queues in self._queues:
            queues[(thread + step) % self.threads].put(True)
            if not queues[thread].get():
                raise AbortedError
            step *= 2

    def abort(self) -> None:
        """Wakes all who wait, or will, by an exception."""
        for queues in self._queues:
            for queue in queues:
                queue.put(False)


class AbortedError(Exception):
    """Another thread failed."""


class Team:
    """Threads that run lists of calls side by side. Made for one program, because tokens left over would confuse."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.barrier = Barrier(threads)
        self._jobs: list[SimpleQueue[Sequence[Call] | None]] = [SimpleQueue() for _ in range(threads)]
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._started = False

    def run(self, lists: Sequence[Sequence[Call]]) -> None:
        """Runs one list per thread, the first in the caller's; the first exception of any is raised."""
        if self.threads == 1:
            _carry_out(lists[0])
            return
        if not self._started:
            self._start()
        for thread in range(1, self.threads):
            self._jobs[thread].put(lists[thread])
        failure = self._attempt(lists[0])
        failures = [failure, *(self._done.get() for _ in range(1, self.threads))]
        real = [each for each in failures if each is not None and not isinstance(each, AbortedError)]
        if real:
            self.barrier = Barrier(self.threads)
            raise real[0]

    def meeting(self, thread: int) -> Any:
        """A call by which that thread waits for the team."""
        return lambda: self.barrier.wait(thread)

    def _attempt(self, calls: Sequence[Call]) -> BaseException | None:
        try:
            _carry_out(calls)
        except BaseException as error:
            self.barrier.abort()
            return error
        return None

    def _start(self) -> None:
        self._started = True
        for thread in range(1, self.threads):
            # A daemon, so that a program whose main thread ends does not wait for those who wait for it.
            threading.Thread(target=self._work, args=(thread,), name=f"graphir-{thread}", daemon=True).start()

    def _work(self, thread: int) -> None:
        while (calls := self._jobs[thread].get()) is not None:
            self._done.put(self._attempt(calls))

    def stop(self) -> None:
        """Lets the threads end."""
        for jobs in self._jobs[1:]:
            jobs.put(None)

    def __del__(self) -> None:
        self.stop()


def _carry_out(calls: Sequence[Call]) -> None:
    with np.errstate(all="ignore"):
        for function, arguments in calls:
            function(*arguments)
