"""What a kernel does in which of its loops over a row, and what it keeps from one loop to the next.

A *store* is a result. The loop of level n computes what is known once n loops are behind (`expressions`). What an
element needs in a later loop is read again if an array has it, computed again if that is little, else kept in a
buffer of a row's length. Values that lie in each other's memory are one array: within a loop all is read before
anything is written, and what a later loop needs of an array that an earlier one writes over is kept, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphir.backends.rows.expressions import Expression

#: What is computed twice rather than kept in a buffer: so many operations, of which these count for more.
_LITTLE = 4
_COSTS = {"exp": 12, "sigmoid": 14, "normal": 20, "divide": 4, "log": 12, "sqrt": 4, "tanh": 14, "erf": 20, "power": 20}


@dataclass(frozen=True)
class Store:
    """A result: its array, whether that has elements or one number a row, and whether it is a sum over rows."""

    array: int
    value: Expression
    each: bool
    adds: bool


class Schedule:
    """The loops of a kernel with these stores.

    array_of    the array of each operand, by the operand's number
    little      so much is computed again rather than kept
    reads_back  whether a result may be read again as what was computed: whether its array is as exact
    keeps       whether an operand that several loops need is kept, too, rather than read again; what is picked then
                follows from operands and numbers alone, since a thread has not what others keep

    levels      the levels that have a loop, in order
    buffers     what is kept, each with its number; a mask among them is kept as the bits that it is drawn from
    """

    def __init__(
        self,
        stores: Sequence[Store],
        array_of: Mapping[int, int],
        *,
        little: int = _LITTLE,
        reads_back: Callable[[int], bool] = lambda array: True,
        keeps: bool = False,
    ) -> None:
        self.stores, self.array_of, self._little, self._keeps = stores, array_of, little, keeps
        #: For each array the level of the loop that writes over it.
        self._written = {store.array: store.value.level for store in stores if store.each and not store.adds}
        self._held = {
            store.value: store for store in stores if store.each and not store.adds and reads_back(store.array)
        }
        self.reductions = find_expressions(stores, "sum", "max")
        self.picks = find_expressions(stores, "pick")
        self.buffers: dict[Expression, int] = {}
        self._needed: dict[tuple[Expression, int], None] = {}
        levels = [*(store.value.level for store in stores if store.each), *(each.level for each in self.picks)]
        self.levels = sorted({*levels, *(each.operands[0].level for each in self.reductions)})
        for each in self.reductions:
            self._need(each.operands[0], each.operands[0].level)
        for store in stores:
            self._need(store.value, store.value.level)
        if keeps:
            self._keep_operands()

    def held(self, value: Expression, level: int) -> int | None:
        """The array that has `value` when the loop of `level` runs; None if none does."""
        return self._held[value].array if value in self._held and value.level < level else None

    def is_spoilt(self, operand: Expression, level: int) -> bool:
        """Whether an operand has been written over when the loop of `level` runs."""
        return self._written.get(self.array_of[operand.detail], level) < level

    def _need(self, value: Expression, level: int) -> None:
        """Notes that the loop of `level` needs `value`."""
        if (value, level) in self._needed:
            return
        self._needed[value, level] = None
        if value.operation == "pick":
            if not self._keeps:
                self._need(value.operands[0], value.level)
        elif value.operation == "gather":
            self._need(value.operands[1], level)
        elif not value.each:
            for each in value.operands:
                self._need(each, each.level)
        elif value.operation == "keep":
            self.buffers.setdefault(value, len(self.buffers))
        elif value.operation == "load":
            if self.is_spoilt(value, level):
                self._keep(value)
        elif value.level < level and self.held(value, level) is None and _cost(value) > self._little:
            self._keep(value)
        elif value.level == level or self.held(value, level) is None:
            for each in value.operands:
                self._need(each, level)

    def _keep(self, value: Expression) -> None:
        if value not in self.buffers:
            self.buffers[value] = len(self.buffers)
            for each in value.operands:
                self._need(each, value.level)
            self.levels = sorted({*self.levels, value.level})

    def _keep_operands(self) -> None:
        count: dict[Expression, int] = {}
        for value, _ in self._needed:
            if value.operation == "load" and value.each:
                count[value] = count.get(value, 0) + 1
        for value, loops in count.items():
            if loops > 1:
                self._keep(value)


def _cost(value: Expression) -> int:
    if not value.each or not value.operands:
        return 0
    return _COSTS.get(value.operation, 1) + sum(map(_cost, value.operands))


def find_expressions(stores: Sequence[Store], *operations: str) -> list[Expression]:
    """The expressions of these operations, operands first."""
    found: dict[Expression, None] = {}
    seen: set[Expression] = set()

    def visit(value: Expression) -> None:
        if value in seen:
            return
        seen.add(value)
        for each in value.operands:
            visit(each)
        if value.operation in operations:
            found[value] = None

    for store in stores:
        visit(store.value)
    return list(found)
