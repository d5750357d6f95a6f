"""What a run computes of the arrays of a tile: which are the same memory, which have elements in the columns.

A *part* is a tile's part of a value, with its strides along the run's axes. A *plan* is what the formulas of the run's
nodes are for parts that lie as these do: a `Row` of expressions, and the stores. Runs of equal structure share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from graphir.backends.compiled.emission import Array
from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.lower import lower
from graphir.backends.rows.runs import FusedRun, Keywords, other_columns, strides
from graphir.backends.rows.schedule import Store, find_expressions
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.value import Value

Key: TypeAlias = tuple[Any, ...]


@dataclass
class Part:
    """A tile's part of a value as a kernel sees it: `strides` in elements, along the run's axes."""

    array: Array
    address: int
    strides: tuple[int, ...]
    each: bool

    @property
    def bounds(self) -> tuple[int, int]:
        """The first address, and the one behind the last."""
        reach = sum((size - 1) * stride for size, stride in zip(self.array.shape, self.array.strides, strict=True))
        return self.address, self.address + reach + self.array.itemsize

    @property
    def identity(self) -> Key:
        """Equal for parts that are the same elements of the same memory."""
        return self.bounds, self.strides, self.array.dtype.str


@dataclass
class KernelPlan:
    """What a run computes, for a way in which its arrays lie.

    stores    the results
    slots     of each operand that is read, by number, its array
    kernels   what has been compiled of it
    """

    row: Row
    stores: list[Store]
    slots: Mapping[int, int]
    kernels: dict[Key, Any] = field(default_factory=dict)

    @property
    def written(self) -> set[int]:
        """The arrays that are written."""
        return {store.array for store in self.stores}

    @property
    def used(self) -> set[int]:
        """The arrays that are read or written."""
        return self.written.union(self.slots.values())


@dataclass(frozen=True)
class RunTile:
    """What a run is written for.

    arrays     the tile's part of each operand and result of the run
    sizes      how much of each of the run's axes it covers
    place      where a node's part lies in the global tensors
    keywords   the nodes' attributes, with dims in numbers
    """

    arrays: Mapping[Value, Array]
    sizes: Sequence[int]
    place: Callable[[Node], Place]
    keywords: Keywords


class Planned(NamedTuple):
    """A plan, and by its arrays' numbers the parts that it reads or writes, and every array's dtype."""

    plan: KernelPlan
    lying: Mapping[int, Part]
    dtypes: Mapping[int, str]


class KernelPlans:
    """The plans of runs for one kind of kernel, each made once for all that compute the same on arrays that lie alike.

    `address` tells where an array begins; see `find_parts` for `packed`, `make_plan` for `converts`.
    """

    def __init__(self, address: Callable[[Array], int], *, packed: bool, converts: bool) -> None:
        self._address, self._packed, self._converts = address, packed, converts
        self._plans: dict[Key, KernelPlan | None] = {}

    def find(self, run: FusedRun, tile: RunTile) -> Planned | None:
        """The plan of a run on a tile; None where its arrays lie in no way for such kernels, or it has no plan."""
        parts = find_parts(run, tile.arrays, tile.sizes, self._address, self._packed)
        if parts is None:
            return None
        at = same_memory(parts)
        key = structure(run, parts, at)
        if key not in self._plans:
            self._plans[key] = make_plan(run, parts, at, self._converts)
        plan = self._plans[key]
        if plan is None:
            return None
        lying = {index: parts[value] for value, index in at.items() if index in plan.used}
        return Planned(plan, lying, {at[value]: value.dtype for value in parts})


def find_parts(
    run: FusedRun, arrays: Mapping[Value, Array], sizes: Sequence[int], address: Callable[[Array], int], packed: bool
) -> dict[Value, Part] | None:
    """Every operand and result that is no text; None where one lies in no way that kernels read.

    `packed`: whether elements of a row have to lie side by side.
    """
    parts = {}
    for value in (*run.inputs, *run.outputs):
        array = arrays[value]
        if array.size == 0 or array.dtype == object:
            return None
        size = array.itemsize
        if any(stride % size or stride < 0 for stride in array.strides):
            return None
        along = strides(run, value, [stride // size for stride in array.strides])
        dims, step = run.task.read_as[value], along[-1]
        # Along a dim of one entry, any stride is as good as another.
        along = tuple(step if many > 1 else 0 for step, many in zip(along, sizes, strict=True))
        if other_columns(dims, run.axes) is not None:
            if packed and step != 1:
                return None
            parts[value] = Part(array, address(array), (*along[:-1], step), False)
            continue
        has_columns = run.axes[-1] in dims
        each = has_columns and (along[-1] == 1 or sizes[-1] == 1 or (along[-1] != 0 and not packed))
        if not each and (along[-1] != 0 or (has_columns and value in run.outputs)):
            return None
        parts[value] = Part(array, address(array), along, each)
    return parts


def same_memory(parts: Mapping[Value, Part]) -> dict[Value, int]:
    """A number for each value's array: the same for values that are the same elements of the same memory."""
    order: dict[Key, int] = {}
    return {value: order.setdefault(part.identity, len(order)) for value, part in parts.items()}


def structure(run: FusedRun, parts: Mapping[Value, Part], at: Mapping[Value, int]) -> Key:
    """Equal for runs that compute the same, of whatever values, on arrays that lie alike."""
    numbers = {value: i for i, value in enumerate(run.inputs)}
    nodes = []
    for node, formula in zip(run.nodes, run.formulas, strict=True):
        operands = tuple(numbers[value] for value in node.inputs)
        results = tuple(numbers.setdefault(value, len(numbers)) for value in node.outputs)
        nodes.append((formula, operands, results))
    values = tuple((run.task.read_as[value], value.dtype) for value in numbers)
    outputs = tuple(numbers[value] for value in run.outputs)
    return tuple(nodes), values, run.axes, outputs, run.dtype, tuple(at.values()), tuple(p.each for p in parts.values())


def make_plan(run: FusedRun, parts: Mapping[Value, Part], at: Mapping[Value, int], converts: bool) -> KernelPlan | None:
    """Lowers the formulas of a run's nodes; None where an array would have to be converted.

    `converts`: whether the kernel converts what it loads and stores.
    """
    row = Row()
    dims = run.task.read_as
    known: dict[Value, Expression] = {}
    for i, value in enumerate(run.inputs):
        columns = run.axes[-1] in dims[value]
        if other_columns(dims[value], run.axes) is not None:
            # Read in other columns than the one at hand, whichever it is.
            known[value] = row.leaf("load", i, each=True)
            continue
        known[value] = row.leaf("load" if parts[value].each or not columns else "repeat", i, each=columns)
    for row.node, (node, (formula, cut)) in enumerate(zip(run.nodes, run.formulas, strict=True)):
        rule = formula.rule
        operands = {each.name: known[value] for each, value in zip(rule.inputs, node.inputs, strict=True)}
        made = lower(row, formula, cut, operands)
        known.update((value, made[each.name]) for each, value in zip(rule.outputs, node.outputs, strict=True))
    if not converts and any(value.dtype not in (run.dtype, "bool") for value in run.outputs):
        return None
    rows = set(run.axes[:-1])
    stores = [Store(at[v], known[v], parts[v].each, not rows <= set(dims[v])) for v in run.outputs]
    if not converts and find_expressions(stores, "round"):
        return None
    gathered = {at[run.inputs[each.operands[0].detail]] for each in find_expressions(stores, "gather")}
    if gathered & {store.array for store in stores}:
        return None  # what other columns need would be written over
    slots = {}
    for load in find_expressions(stores, "load", "repeat"):
        value = run.inputs[load.detail]
        if not converts and value.dtype not in (run.dtype, "bool", "int32", "int64"):
            return None
        slots[load.detail] = at[value]
    return KernelPlan(row, stores, slots)
