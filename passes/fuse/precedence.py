"""Who must come before whom among groups of nodes, while groups grow and merge: what keeps them free of cycles."""

from __future__ import annotations

from collections.abc import Iterable


class Precedence:
    """A partial order of groups, numbered as they are added. All that comes before a group is held as bits."""

    def __init__(self) -> None:
        #: For each group, all that must come before it, itself left out.
        self._before: list[int] = []
        #: For each group, its own bit, and those of the groups that it has swallowed.
        self._bits: list[int] = []
        #: For each group, those that were said to come after it; for a swallowed one, who swallowed it.
        self._after: list[set[int]] = []

    def add(self, sources: Iterable[int]) -> int:
        """A new group that comes after `sources`; its number."""
        group = len(self._bits)
        self._bits.append(1 << group)
        self._before.append(0)
        self._after.append(set())
        self.put_after(group, sources)
        return group

    def is_before(self, first: int, second: int) -> bool:
        """Whether `first` must come before `second`."""
        return bool(self._before[second] & self._bits[first])

    def put_after(self, group: int, sources: Iterable[int]) -> None:
        """Says that `group` comes after `sources`, and with it all that come after `group`; none may be among them."""
        added = 0
        for source in sources:
            added |= self._before[source] | self._bits[source]
            self._after[source].add(group)
        self._spread(group, added)

    def merge(self, group: int, other: int) -> None:
        """Makes `other` part of `group`; nothing may have to come between the two."""
        self._bits[group] |= self._bits[other]
        after = self._after[group] | self._after[other]
        self._after[group] = {follower for follower in after if not self._bits[group] >> follower & 1}
        before = (self._before[group] | self._before[other]) & ~self._bits[group]
        self._before[group] = before
        self._after[other] = {group}
        for follower in self._after[group]:
            self._spread(follower, before | self._bits[group])

    def _spread(self, group: int, added: int) -> None:
        """Puts `added` before `group` and all that follow it."""
        frontier = [group]
        while frontier:
            here = frontier.pop()
            if added & ~self._before[here]:
                self._before[here] |= added
                frontier.extend(self._after[here])
