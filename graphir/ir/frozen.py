"""Things that do not change once they are made: values, nodes and graphs."""

from __future__ import annotations

from typing import NoReturn, Self

from graphir.errors import GraphError

#: How a frozen thing's own `__init__` sets what it is made of.
fix = object.__setattr__


class Frozen:
    """Refuses assignment. Passes make new graphs, and no one who holds a graph sees it change."""

    __slots__ = ()

    name: str

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        self._refuse(attribute)

    def __delattr__(self, attribute: str) -> NoReturn:
        self._refuse(attribute)

    # What cannot change is its own copy.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def _refuse(self, attribute: str) -> NoReturn:
        kind = type(self).__name__.lower()
        raise GraphError(
            f"{kind} {self.name} is immutable: its {attribute} cannot be changed; "
            "copy the graph into a builder, builder, copies = gi.Builder.extending(graph), and build it anew"
        )
