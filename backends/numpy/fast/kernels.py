"""Fused kernels for the runs of a task: from the arrays of a tile to one call.

What a tile's arrays look like decides the kernel's form: which of them are the same memory, which have elements in
the columns and which one number a row, and how many loops its rows take once dims that lie one behind the other in all
arrays are merged. Kernels take every array as one contiguous row of numbers, with strides beside it: a bias [D]
under rows [B, S, D] is that row with strides 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.rows import elements, rowwise  # noqa: F401  declare the snippets
from graphir.backends.numpy.fast.build import build, require_numba
from graphir.backends.rows.expressions import Expression, Row
from graphir.backends.rows.runs import Axis, Run, find_runs, strides
from graphir.backends.rows.snippets import find_snippet
from graphir.backends.numpy.fast.source import Source, Store, find_expressions
from graphir.backends.compiled.storage import Homes
from graphir.backends.compiled.task import Task
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.value import Value

#: Attributes that say which numbers a node takes, not what it does with them.
_OF_THE_NODE = ("key", "dims", "split")
#: Below so many elements a task is not worth a kernel's compilation.
LEAST = 1 << 12
#: How many elements the draws of one pair of keys are for: two to each of 2³² counters.
_MOST_DRAWS = 1 << 33


@dataclass
class _Part:
    """A tile's part of a value as a kernel sees it: `strides` in elements, along the run's axes."""

    array: Array
    strides: tuple[int, ...]
    each: bool

    @property
    def bounds(self) -> tuple[int, int]:
        """The first address, and the one behind the last."""
        low = self.array.__array_interface__["data"][0]
        reach = sum((size - 1) * stride for size, stride in zip(self.array.shape, self.array.strides, strict=True))
        return low, low + reach + self.array.itemsize

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for parts that are the same elements of the same memory."""
        return self.bounds, self.strides, self.array.dtype.str

    def flat(self) -> Array:
        """From the first element to the last, what lies between included."""
        if self.array.flags.c_contiguous:
            return self.array.reshape(-1)
        low, high = self.bounds
        size = self.array.itemsize
        row: Array = np.lib.stride_tricks.as_strided(self.array, ((high - low) // size,), (size,))
        return row


@dataclass
class _Plan:
    """What a run computes, for a way in which its arrays lie. `slots` are the operands that are read, by number."""

    row: Row
    stores: list[Store]
    slots: Mapping[int, int]
    kernels: dict[int, tuple[Any, list[str]]] = field(default_factory=dict)

    @property
    def written(self) -> set[int]:
        """The arrays that are written."""
        return {store.array for store in self.stores}

    @property
    def used(self) -> set[int]:
        """The arrays that are read or written."""
        return self.written.union(self.slots.values())


_Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class _Tile:
    """What a run is written for; see `Kernels.write`."""

    arrays: Mapping[Value, Array]
    sizes: Sequence[int]
    place: Callable[[Node], Place]
    keywords: Mapping[Node, Mapping[str, Any]]


class Kernels:
    """Writes the calls of runs. Errors: MissingDependencyError, with what to install, where there is no Numba.

    Runs of fewer than `least` elements, 4096 unless given, are left to the rules, and of nodes alone those that the
    rules do in one pass; at 0, all runs are taken.
    """

    def __init__(self, least: int | None = None) -> None:
        require_numba()
        self.least = LEAST if least is None else least
        self._plans: dict[_Key, _Plan | None] = {}

    def runs(self, task: Task, homes: Homes) -> Mapping[int, Run]:
        """The runs of a task, by the position of their first node."""
        return find_runs(task, homes, self.least)

    def write(
        self,
        call: Calls,
        run: Run,
        arrays: Mapping[Value, Array],
        sizes: Sequence[int],
        place: Callable[[Node], Place],
        keywords: Mapping[Node, Mapping[str, Any]],
    ) -> bool:
        """Records the call that computes a run on a tile; False where the tile's arrays lie in no way for it.

        arrays     the tile's part of each operand and result of the run
        sizes      how much of each of the run's axes it covers
        place      where a node's part lies in the global tensors
        keywords   the nodes' attributes, with dims in numbers
        """
        tile = _Tile(arrays, sizes, place, keywords)
        parts = _parts(run, tile.arrays, tile.sizes)
        if parts is None:
            return False
        order: dict[_Key, int] = {}
        at = {value: order.setdefault(part.identity, len(order)) for value, part in parts.items()}
        key = (_structure(run, tile.keywords), tuple(at.values()), tuple(part.each for part in parts.values()))
        if key not in self._plans:
            self._plans[key] = _ask(run, parts, at, tile.keywords)
        plan = self._plans[key]
        if plan is None:
            return False
        lying = {index: parts[value] for value, index in at.items() if index in plan.used}
        geometry = _geometry(run, plan, lying, tile.sizes, tile.place)
        if geometry is None or _overlap(lying, plan.written):
            return False
        _record(call, run, plan, lying, tile, *geometry)
        return True


def _record(
    call: Calls, run: Run, plan: _Plan, lying: Mapping[int, _Part], tile: _Tile, geometry: Array, loops: int
) -> None:
    dtype = np.dtype(run.dtype)
    prepared = []
    for each in plan.row.prepared:
        known = tile.keywords[run.nodes[each.node]]
        numbers = call.kept((each.count,), dtype if each.dtype == "float" else each.dtype)
        given = [known[a] if isinstance(a, str) else tile.arrays[run.inputs[a.detail]] for a in each.arguments]
        call.once(each.function, *given, numbers)
        prepared.append(numbers)
    flat = {index: lying[index].flat() for index in sorted(lying)}
    if loops not in plan.kernels:
        plan.kernels[loops] = _compile(run, plan, loops, flat, prepared)
    function, buffers = plan.kernels[loops]
    width = tile.sizes[-1]
    rows = [call.scratch((width,), dtype) if kind == "T" else call.scratch((width // 2 + 1,), kind) for kind in buffers]
    for store in plan.stores:
        if store.adds:
            target = lying[store.array].array
            call(np.copyto, target, target.dtype.type(0))
    call(function, geometry, np.array(plan.row.numbers, dtype), *flat.values(), *prepared, *rows)


# -- what is computed -------------------------------------------------------------------------------------


def _structure(run: Run, keywords: Mapping[Node, Mapping[str, Any]]) -> _Key:
    """Equal for runs that compute the same, of whatever values."""
    numbers = {value: i for i, value in enumerate(run.inputs)}
    nodes = []
    for node in run.nodes:
        attributes = tuple(sorted((k, v) for k, v in keywords[node].items() if k not in (*_OF_THE_NODE, "shape")))
        operands = tuple(numbers[value] for value in node.inputs)
        results = tuple(numbers.setdefault(value, len(numbers)) for value in node.outputs)
        nodes.append((node.operator.key, node.inference.rule, attributes, operands, results))
    axes = tuple(run.task.space.dims[value] for value in numbers)
    return tuple(nodes), axes, run.axes, tuple(numbers[value] for value in run.outputs), run.dtype


def _ask(
    run: Run, parts: Mapping[Value, _Part], at: Mapping[Value, int], keywords: Mapping[Node, Mapping[str, Any]]
) -> _Plan | None:
    """Asks the snippets of a run's nodes; None where one has no answer, or a scalar is of another dtype."""
    row = Row()
    dims = run.task.space.dims
    known = {}
    for i, value in enumerate(run.inputs):
        columns = run.axes[-1] in dims[value]
        known[value] = row.leaf("load" if parts[value].each or not columns else "repeat", i, each=columns)
    for row.node, node in enumerate(run.nodes):
        made = _ask_one(row, node, [known[value] for value in node.inputs], keywords[node])
        if made is None:
            return None
        for operand, value in zip(node.inference.rule.outputs, node.outputs, strict=True):
            if operand.name not in made:
                return None
            found = made[operand.name]
            # Over what of the row an output lacks, it is the sum; over rows the kernel adds up.
            known[value] = row.sum(found) if found.each and run.axes[-1] not in dims[value] else found
    if any(value.dtype not in (run.dtype, "bool") for value in run.outputs):
        return None
    rows = set(run.axes[:-1])
    stores = [Store(at[v], known[v], parts[v].each, not rows <= set(dims[v])) for v in run.outputs]
    slots = {}
    for load in find_expressions(stores, "load", "repeat"):
        value = run.inputs[load.detail]
        if value.dtype not in (run.dtype, "bool", "int32", "int64"):
            return None
        slots[load.detail] = at[value]
    return _Plan(row, stores, slots)


def _ask_one(
    row: Row, node: Node, operands: Sequence[Expression], keywords: Mapping[str, Any]
) -> Mapping[str, Expression] | None:
    operator = node.operator
    given = dict(zip((o.name for o in node.inference.rule.inputs), operands, strict=True))
    if operator.variadic:
        name = operator.signatures(node.attributes)[0].inputs[0].name
        named: dict[str, Any] = {name: tuple(operands)}
    else:
        named = {name: given.get(name) for name in operator.operands}
    attributes = {name: value for name, value in keywords.items() if name not in ("shape", "only")}
    answer = find_snippet(operator)
    assert answer is not None
    return answer(row, **named, **attributes)


def _compile(
    run: Run, plan: _Plan, loops: int, arrays: Mapping[int, Array], prepared: Sequence[Array]
) -> tuple[Any, list[str]]:
    """The kernel's function, and the dtypes of the buffers that it needs."""
    place = {index: i for i, index in enumerate(arrays)}
    stores = [Store(place[s.array], s.value, s.each, s.adds) for s in plan.stores]
    source = Source(plan.row, stores, {slot: place[index] for slot, index in plan.slots.items()}, loops)
    types = ["IN(types.int64)", f"IN(types.{run.dtype})"]
    types += [f"{'OUT' if index in plan.written else 'IN'}({_type(array)})" for index, array in arrays.items()]
    types += [f"IN({_type(array)})" for array in prepared]
    types += [f"OUT(types.{run.dtype if kind == 'T' else kind})" for kind in source.buffers]
    return build(run.dtype, source.text(", ".join(types))), source.buffers


def _type(array: Array) -> str:
    return "types.boolean" if array.dtype == bool else f"types.{array.dtype.name}"


# -- how arrays lie ---------------------------------------------------------------------------------------


def _parts(run: Run, arrays: Mapping[Value, Array], sizes: Sequence[int]) -> dict[Value, _Part] | None:
    """Every operand and result that is no text; None where one lies in no way that kernels read."""
    parts = {}
    for value in (*run.inputs, *run.outputs):
        array = arrays[value]
        if array.size == 0 or array.dtype == object:
            return None
        size = array.itemsize
        if any(stride % size or stride < 0 for stride in array.strides):
            return None
        along = strides(run, value, [stride // size for stride in array.strides])
        # Along a dim of one entry, any stride is as good as another.
        along = tuple(step if many > 1 else 0 for step, many in zip(along, sizes, strict=True))
        has_columns = run.axes[-1] in run.task.space.dims[value]
        each = has_columns and (along[-1] == 1 or sizes[-1] == 1)
        if not each and (along[-1] != 0 or (has_columns and value in run.outputs)):
            return None
        parts[value] = _Part(array, along, each)
    return parts


def _overlap(lying: Mapping[int, _Part], written: set[int]) -> bool:
    """Whether what is written shares memory with another array."""
    bounds = {index: part.bounds for index, part in lying.items()}
    return any(
        bounds[one][0] < bounds[other][1] and bounds[other][0] < bounds[one][1]
        for one in written
        for other in bounds
        if one != other
    )


def _geometry(
    run: Run, plan: _Plan, lying: Mapping[int, _Part], sizes: Sequence[int], place: Callable[[Node], Place]
) -> tuple[Array, int] | None:
    """The kernel's integers, as its text reads them, and how many loops its rows take.

    None where a mask's elements do not lie side by side, or are beyond what 32 bits count.
    """
    ramps = []
    masks = {ramp.detail for ramp, _, _ in plan.row.masks}
    for i, (number, where) in enumerate(plan.row.ramps):
        node = run.nodes[number]
        first, steps = where(place(node))
        names = run.task.space.factors[node]
        by_axis: dict[Axis, int] = {(names[name],): step for name, step in steps.items()}
        if not by_axis.keys() <= set(run.axes):
            return None
        along = [by_axis.get(axis, 0) for axis in run.axes]
        last = first + sum((size - 1) * step for size, step in zip(sizes, along, strict=True))
        if i in masks and (last >= _MOST_DRAWS or (along[-1] != 1 and sizes[-1] > 1)):
            return None
        ramps.append((first, along))
    order = sorted(lying)
    columns = [lying[index].strides for index in order] + [along for _, along in ramps]
    loops: list[tuple[int, list[int]]] = []
    for axis, size in enumerate(sizes[:-1]):
        steps_here = [each[axis] for each in columns]
        if loops and all(outer == inner * size for outer, inner in zip(loops[-1][1], steps_here, strict=True)):
            loops[-1] = loops[-1][0] * size, steps_here
        elif size > 1:
            loops.append((size, steps_here))
    loops = loops or [(1, [0] * len(columns))]
    numbers = [*(size for size, _ in loops), sizes[-1]]
    for i in range(len(columns)):
        if i >= len(order):
            numbers.append(ramps[i - len(order)][0])
        numbers += [steps_of[i] for _, steps_of in loops]
    return np.array(numbers, np.int64), len(loops)
