"""Threads of our own: each runs its list of calls, and they meet where one needs what another made.

NumPy's functions and BLAS let go of the interpreter's lock while they compute; with BLAS held to one thread, two
Python threads that work on different rows keep two cores busy from end to end of a step.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NoReturn

import numpy as np

from graphir.backends.compiled.writer import Call
from graphir.backends.forks import renew_in_children
from graphir.errors import ConfigError, RunError


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


class _ForkedError(RunError):
    """A thread is not there."""

    def __init__(self) -> None:
        super().__init__("the process was forked in the middle of a run, which cannot go on in the child")


@dataclass(frozen=True)
class _Job:
    """A thread's part of a run: its calls, and whom it tells that they are done, or why not."""

    calls: Sequence[Call]
    barrier: Barrier
    done: SimpleQueue[BaseException | None]
    #: Of the thread whose run it is: what is refused there is refused here.
    context: Context

    def carry_out(self) -> None:
        self.done.put(self.context.run(_attempt, self.calls, self.barrier))


class Team:
    """Threads that run lists of calls side by side. Made for one program, because tokens left over would confuse.

    They are started by the first run. While they wait they hold on to nothing of the team, and so end with it. In a
    forked child, which has none of them, others are started.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.barrier = Barrier(threads)
        self._jobs: list[SimpleQueue[_Job | None]] = []
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        #: Whether all threads are known to have ended their part of the last run.
        self._settled = True
        renew_in_children(self)

    def run(self, lists: Sequence[Sequence[Call]]) -> None:
        """Runs one list per thread, the first in the caller's; the first exception of any is raised.

        However it ends, by an interrupt, too, no thread works for it any more. ConfigError if the system starts no
        more threads.
        """
        if self.threads == 1:
            _carry_out(lists[0])
            return
        if not self._jobs:
            self._start()
        if not self._settled:
            self._settle()
        self._settled = False
        try:
            self._hand_out(lists[1:])
            failures = [_attempt(lists[0], self.barrier), *self._collect(self.threads - 1)]
            self._settled = failures.count(None) == self.threads
        finally:
            if not self._settled:
                self._settle()
        if failures.count(None) < self.threads:
            _raise_first(failures)

    def meeting(self, thread: int) -> Any:
        """A call by which that thread waits for the team."""
        return lambda: self.barrier.wait(thread)

    def _hand_out(self, lists: Sequence[Sequence[Call]]) -> None:
        self._done = SimpleQueue()
        for jobs, calls in zip(self._jobs, lists, strict=True):
            jobs.put(_Job(calls, self.barrier, self._done, copy_context()))

    def _collect(self, count: int) -> list[BaseException | None]:
        done = self._done
        return [done.get() for _ in range(count)]

    def _settle(self) -> None:
        """Waits for threads that may be at work still for a run that was broken off."""
        self.barrier.abort()
        # Whoever has done this much has done all that it was told before.
        self._hand_out([()] * len(self._jobs))
        self._collect(len(self._jobs))
        self.barrier = Barrier(self.threads)
        self._settled = True

    def _start(self) -> None:
        started: list[SimpleQueue[_Job | None]] = []
        try:
            for thread in range(1, self.threads):
                jobs: SimpleQueue[_Job | None] = SimpleQueue()
                started.append(jobs)
                # A daemon, so that a program whose main thread ends does not wait for those who wait for it.
                threading.Thread(target=_work, args=(jobs,), name=f"graphir-{thread}", daemon=True).start()
            self._jobs = started
        except RuntimeError as error:
            raise ConfigError(
                f"a run on {self.threads} threads needs {self.threads - 1} more, and the system starts no more of them "
                f"({error}); end some, or compile with threads=1"
            ) from None
        finally:
            if self._jobs is not started:
                for jobs in started:
                    jobs.put(None)

    def stop(self) -> None:
        """Lets the threads end; another run starts others."""
        threads, self._jobs = self._jobs, []
        for jobs in threads:
            jobs.put(None)

    def renew(self) -> None:
        """As `Renewed.renew`."""
        if not self._settled:
            # Of a run that another thread began, nobody here knows; if a kernel forked, its run can only fail now, and
            # waits for nobody, nor is the child left with a thread that waits for jobs.
            self.barrier.abort()
            for _ in self._jobs:
                self._done.put(_ForkedError())
        self.stop()

    def __del__(self) -> None:
        self.stop()


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    """What a thread does. It knows its jobs and nothing of the team, which could not end if it did."""
    while _do_next(jobs):
        pass


def _do_next(jobs: SimpleQueue[_Job | None]) -> bool:
    """Waits for a job and carries it out; False if there will be none. A job done is held by nothing here."""
    job = jobs.get()
    if job is not None:
        job.carry_out()
    return job is not None


def _attempt(calls: Sequence[Call], barrier: Barrier) -> BaseException | None:
    try:
        _carry_out(calls)
    except BaseException as error:
        barrier.abort()
        return error
    return None


def _raise_first(failures: list[BaseException | None]) -> NoReturn:
    """Raises what happened first; of those that were only made to stop by it, nothing."""
    found = [each for each in failures if each is not None]
    error = next((each for each in found if not isinstance(each, AbortedError)), found[0])
    try:
        raise error
    finally:
        # An exception knows this function's variables, and everything that was at work; so nothing here knows it.
        found.clear()
        failures.clear()
        del error


#: How many elements a ufunc may bring side by side in NumPy's buffers before it works on them, which it does with rows
#: that are shorter, where an operand has one number for each row or one row for all: those of a hundred gain by it, and
#: those of a thousand take twice as long.
BUFFER = 1 << 10


def _carry_out(calls: Sequence[Call]) -> None:
    with np.errstate(all="ignore"):
        # For this thread, and until here is left: errstate restores it too.
        np.setbufsize(BUFFER)
        for function, arguments in calls:
            function(*arguments)
