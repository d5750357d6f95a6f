"""Turns: runs that share buffers are carried out one at a time, in whatever threads they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from graphir.backends.forks import Guard
from graphir.errors import RunError

P = ParamSpec("P")
T = TypeVar("T")


class Turn(Guard):
    """What one thread at a time has, and others wait for. `whose` it is, errors say.

    A run that asks for its own turn again, by a kernel, a `watch`, a signal's handler or a finaliser, would wait for
    ever, and is refused instead; so it is in threads that work for the run, to which its context is handed on.

    A forked child has turns of its own, for nobody there would give back what another thread has; none where
    `no_child` says why it cannot have them.
    """

    def __init__(self, whose: str, no_child: str = "") -> None:
        super().__init__()
        self.whose, self._no_child, self._forked = whose, no_child, False

    def renew(self) -> None:
        super().renew()
        self._forked = True

    def take(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What `work` returns, when it is its turn. RunError from within itself, or in a child that cannot have it."""
        if self._forked and self._no_child:
            raise RunError(f"{self.whose} cannot run in a process that was forked from its own: {self._no_child}")
        taken = _TAKEN.get()
        if self in taken:
            raise RunError(
                f"{self.whose} is called from within a run that has to end first, by a kernel, a watch, a signal's "
                f"handler or a finaliser; call it when the run has returned, or compile another"
            )
        # A finaliser may come between the next lines, and is let in: there is nothing yet that it could disturb. Lock
        # and context are left by the interpreter itself, whatever else breaks in.
        with self.lock:
            return copy_context().run(self._carry_out, taken, partial(work, *arguments, **options))

    def _carry_out(self, taken: frozenset[Turn], work: Callable[[], T]) -> T:
        _TAKEN.set(taken | {self})
        return work()


def turn_of_a_rank() -> Turn:
    """What all runs of one of several ranks take: none comes between the collectives of another executable's."""
    return Turn(
        "what was compiled for one of several ranks",
        "a child is no rank; run it in the rank's own process, or compile with ranks='simulated'",
    )


#: The turns that what goes on here has taken.
_TAKEN: ContextVar[frozenset[Turn]] = ContextVar("_TAKEN", default=frozenset())
