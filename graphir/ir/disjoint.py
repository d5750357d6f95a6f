"""Disjoint sets: members that are found to be the same are one set, for which one of them stands (Tarjan, 1975)."""

from __future__ import annotations


class DisjointSets:
    """Members 0, 1, 2, …, each at first a set of its own."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self) -> int:
        """The next member."""
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def find(self, member: int) -> int:
        """The member that stands for this one's set."""
        parent = self._parent
        while parent[member] != member:
            parent[member] = member = parent[parent[member]]
        return member

    def unite(self, one: int, other: int) -> None:
        """Makes one set of these members'; who stood for `other` stands for both."""
        self._parent[self.find(one)] = self.find(other)
