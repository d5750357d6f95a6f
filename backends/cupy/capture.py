"""Recorded calls as CUDA graphs: launched once each instead of call by call.

A *piece* is what a list of calls is cut into: a graph of as many as can be captured, or one that cannot be. Capturing
records what calls ask of the device, with the very addresses, and carries nothing out. What a reference kernel asks
depends on numbers that it reads back, and on memory that it allocates: it cannot be captured, nor what is declared so
by `not_captured`. CUDA itself lets CuPy allocate in a capture; but a graph would go on writing to such memory when it
has long been given to somebody else, and so a call that tries is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from graphir.backends.compiled.emission import Function
from graphir.backends.compiled.writer import Call, run_reference

#: A graph of fewer calls costs more to launch than these.
_LEAST = 2
_LEFT_OUT = "graphir_not_captured"


def not_captured(function: Function) -> Function:
    """Declares that calls of `function` wait for the device, or allocate, and so run outside of graphs."""
    setattr(function, _LEFT_OUT, True)
    return function


class Recording:
    """A list of calls: carried out one by one the first time, which compiles kernels; captured the second time.

    `stream` is CuPy's current stream whenever this runs.
    """

    def __init__(self, cupy: Any, stream: Any, calls: Sequence[Call]) -> None:
        self._cupy, self._stream, self._calls = cupy, stream, calls
        self._has_run = False
        self._pieces: list[Callable[[], None]] | None = None
        #: How many graphs there are, how many calls in all of them, the calls outside, and those of them that were
        #: expected to be captured, with what came of it.
        self.graphs, self.captured = 0, 0
        self.outside: list[Call] = []
        self.refused: list[tuple[Call, Exception]] = []

    def run(self) -> None:
        """Carries the calls out."""
        if not self._has_run:
            _carry_out(self._calls)
            self._has_run = True
            return
        if self._pieces is None:
            self._pieces = self._capture()
        for piece in self._pieces:
            piece()

    def _capture(self) -> list[Callable[[], None]]:
        """The pieces. Broken off, by an interrupt, it leaves nothing, and the next run captures anew."""
        pieces: list[Callable[[], None]] = []
        self.graphs, self.captured, self.outside, self.refused = 0, 0, [], []
        start = 0
        try:
            for position, call in enumerate(self._calls):
                if not _can_be_captured(call):
                    self._add(pieces, self._calls[start:position])
                    self._leave_out(pieces, self._calls[position : position + 1])
                    start = position + 1
            self._add(pieces, self._calls[start:])
        except BaseException:
            self._abandon()
            raise
        return pieces

    def _add(self, pieces: list[Callable[[], None]], calls: Sequence[Call]) -> None:
        """A graph of `calls`; of one that the device will not capture after all, of those before and behind it."""
        if len(calls) < _LEAST:
            self._leave_out(pieces, calls)
            return
        done = 0
        self._stream.begin_capture()
        try:
            with self._cupy.cuda.using_allocator(_refuse):
                for function, arguments in calls:
                    function(*arguments)
                    done += 1
        except Exception as error:
            self._abandon()
            self.refused.append((calls[done], error))
            self._add(pieces, calls[:done])
            self._leave_out(pieces, calls[done : done + 1])
            self._add(pieces, calls[done + 1 :])
            return
        try:
            graph = self._stream.end_capture()
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            # Of which call is not said, nor is it worth looking for: all of them work one by one.
            self.refused += [(call, error) for call in calls]
            self._leave_out(pieces, calls)
            return
        pieces.append(graph.launch)
        self.graphs += 1
        self.captured += len(calls)

    def _abandon(self) -> None:
        """Ends a capture that has failed; CUDA says once more that it has."""
        with suppress(self._cupy.cuda.runtime.CUDARuntimeError):
            self._stream.end_capture()

    def _leave_out(self, pieces: list[Callable[[], None]], calls: Sequence[Call]) -> None:
        if calls:
            self.outside += calls
            pieces.append(lambda: _carry_out(calls))


def _refuse(size: int) -> Any:
    """CuPy's allocator while calls are captured."""
    raise MemoryError(f"{size} bytes are allocated while a stream is captured")


def _can_be_captured(call: Call) -> bool:
    function, _ = call
    return function is not run_reference and not getattr(function, _LEFT_OUT, False)


def _carry_out(calls: Sequence[Call]) -> None:
    for function, arguments in calls:
        function(*arguments)
