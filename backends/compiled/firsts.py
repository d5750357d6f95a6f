"""What the first tile that comes to it does for all: begins a sum, fills what is filled once a run."""

from __future__ import annotations

from collections.abc import Hashable


class Firsts:
    """Who is first of a thread's tiles, which are written in order; each can be written again, and is first again."""

    def __init__(self) -> None:
        self._number = -1
        self._first: dict[Hashable, int] = {}
        self._mine: list[set[Hashable]] = []
        #: What the tile that is being written has come to.
        self._reached: set[Hashable] = set()
        self._again = False

    def begin(self) -> None:
        """A further tile is written."""
        self._number, self._again, self._reached = len(self._mine), False, set()
        self._mine.append(self._reached)

    def again(self, number: int) -> None:
        """A tile that has been written is written again."""
        self._number, self._again, self._reached = number, True, set()

    def is_done(self, what: Hashable) -> bool:
        """Whether this tile, or one before it, has come to it already."""
        return what in self._reached or self._first.get(what, self._number) < self._number

    def do(self, what: Hashable) -> None:
        """This tile comes to it, before others unless it is done."""
        if self._first.get(what, self._number) >= self._number:
            self._reached.add(what)
            if not self._again:
                self._first[what] = self._number

    @property
    def is_complete(self) -> bool:
        """Whether this tile, written again, has come to all that others take for done because it was."""
        return self._mine[self._number] <= self._reached
