"""Fused kernels for the runs of a task: from the arrays of a tile to one call.

What a tile's arrays look like decides the kernel's form: which of them are the same memory, which have elements in
the columns and which one number a row, and how many loops its rows take once dims that lie one behind the other in all
arrays are merged. Kernels take every array as one contiguous row of numbers, with strides beside it: a bias [D]
under rows [B, S, D] is that row with strides 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.compiled.task import Task
from graphir.backends.effects import declare
from graphir.backends.numpy.fast.build import build, require_numba
from graphir.backends.numpy.fast.products import WidenedProduct, find_product, write_product
from graphir.backends.numpy.fast.source import Source
from graphir.backends.rows.expressions import Expression
from graphir.backends.rows.geometry import last_of, lay_ramps, merge_loops, overlap
from graphir.backends.rows.plan import KernelPlan, KernelPlans, Part, RunTile
from graphir.backends.rows.runs import FusedRun, Keywords, find_runs
from graphir.backends.rows.schedule import Store
from graphir.ir.graph import Node
from graphir.ir.operator import Place
from graphir.ir.value import Value

#: Below so many elements a task is not worth a kernel's compilation.
LEAST = 1 << 12
#: How many elements the draws of one pair of keys are for: two to each of 2³² counters.
_MOST_DRAWS = 1 << 33


class Kernels:
    """Writes the calls of runs. Errors: MissingDependencyError, with what to install, where there is no Numba.

    Runs of fewer than `least` elements, 4096 unless given, are left to the rules, and of nodes alone those that the
    rules do in one pass; at 0, all runs are taken.
    """

    def __init__(self, least: int | None = None) -> None:
        require_numba()
        self.least = LEAST if least is None else least
        self._plans = KernelPlans(_address, packed=True, converts=False)

    def runs(self, task: Task, assignment: Assignment, keywords: Keywords) -> Mapping[int, FusedRun]:
        """The runs of a task, by the position of their first node."""
        return find_product(task) or find_runs(task, assignment, keywords, self.least)

    def in_registers(self, task: Task) -> frozenset[Value]:
        """None: what these kernels are for is cut into tiles beforehand."""
        return frozenset()

    def write(self, call: Calls, run: FusedRun, tile: RunTile) -> bool:
        """Records the call that computes a run on a tile; False where the tile's arrays lie in no way for it."""
        if isinstance(run, WidenedProduct):
            return write_product(call, run, tile)
        planned = self._plans.find(run, tile)
        if planned is None:
            return False
        plan, lying, _ = planned
        geometry = _geometry(run, plan, lying, tile.sizes, tile.place)
        if geometry is None or overlap(lying, plan.written):
            return False
        _record(call, run, plan, lying, tile, *geometry)
        return True


def _record(
    call: Calls, run: FusedRun, plan: KernelPlan, lying: Mapping[int, Part], tile: RunTile, geometry: Array, loops: int
) -> None:
    dtype = np.dtype(run.dtype)
    prepared = []
    for each in plan.row.prepared:
        known = tile.keywords[run.nodes[each.node]]
        given = [_argument(run, tile, known, a) for a in each.arguments]
        kind = dtype if each.dtype == "float" else each.dtype
        prepared.append(call.prepared((each.count,), kind, each.function, *given))
    flat = {index: _flat(lying[index]) for index in sorted(lying)}
    if (loops,) not in plan.kernels:
        plan.kernels[loops,] = _compile(run, plan, loops, flat, prepared)
    function, buffers = plan.kernels[loops,]
    width = tile.sizes[-1]
    rows = [call.scratch((width,), dtype) if kind == "T" else call.scratch((width // 2 + 1,), kind) for kind in buffers]
    for store in plan.stores:
        if store.adds:
            target = lying[store.array].array
            call(np.copyto, target, target.dtype.type(0))
    call(function, geometry, np.array(plan.row.numbers, dtype), *flat.values(), *prepared, *rows)


def _argument(run: FusedRun, tile: RunTile, known: Mapping[str, Any], given: Any) -> Any:
    """What a function that prepares numbers is handed: an attribute, a scalar operand, or what it is to compute."""
    if isinstance(given, str):
        return known[given]
    return tile.arrays[run.inputs[given.detail]] if isinstance(given, Expression) else given


# -- compiling ------------------------------------------------------------------------------------------


def _compile(
    run: FusedRun, plan: KernelPlan, loops: int, arrays: Mapping[int, Array], prepared: Sequence[Array]
) -> tuple[Any, list[str]]:
    """The kernel's function, and the dtypes of the buffers that it needs."""
    place = {index: i for i, index in enumerate(arrays)}
    stores = [Store(place[s.array], s.value, s.each, s.adds) for s in plan.stores]
    source = Source(plan.row, stores, {slot: place[index] for slot, index in plan.slots.items()}, loops)
    types = ["IN(types.int64)", f"IN(types.{run.dtype})"]
    types += [f"{'OUT' if index in plan.written else 'IN'}({_type(array)})" for index, array in arrays.items()]
    types += [f"IN({_type(array)})" for array in prepared]
    types += [f"OUT(types.{run.dtype if kind == 'T' else kind})" for kind in source.buffers]
    function = build(run.dtype, source.text(", ".join(types)))
    # Two arrays of numbers come first, and buffers last, behind what is prepared.
    written = [2 + place[index] for index in sorted(plan.written)]
    read = {place[index] for index in plan.slots.values()} | {each.array for each in stores if each.adds}
    buffers = range(2 + len(arrays) + len(prepared), 2 + len(arrays) + len(prepared) + len(source.buffers))
    declare(function, [*written, *buffers], [each for each in written if each - 2 in read], spans=True)
    return function, source.buffers


def _type(array: Array) -> str:
    return "types.boolean" if array.dtype == bool else f"types.{array.dtype.name}"


# -- how arrays lie ---------------------------------------------------------------------------------------


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _flat(part: Part) -> Array:
    """From the first element to the last, what lies between included."""
    if part.array.flags.c_contiguous:
        return part.array.reshape(-1)
    low, high = part.bounds
    size = part.array.itemsize
    row: Array = np.lib.stride_tricks.as_strided(part.array, ((high - low) // size,), (size,))
    return row


def _geometry(
    run: FusedRun, plan: KernelPlan, lying: Mapping[int, Part], sizes: Sequence[int], place: Callable[[Node], Place]
) -> tuple[Array, int] | None:
    """The kernel's integers, as its text reads them, and how many loops its rows take.

    None where a mask's elements do not lie side by side, or are beyond what 32 bits count.
    """
    ramps = lay_ramps(run, plan.row, place)
    if ramps is None:
        return None
    for mask, _, _ in plan.row.masks:
        ramp = ramps[mask.detail]
        if last_of(ramp, sizes) >= _MOST_DRAWS or (ramp[1][-1] != 1 and sizes[-1] > 1):
            return None
    steps = [*(lying[index].strides for index in sorted(lying)), *(along for _, along in ramps)]
    loops = merge_loops(sizes[:-1], [each[:-1] for each in steps])
    numbers = [*(size for size, _ in loops), sizes[-1]]
    for i in range(len(steps)):
        if i >= len(lying):
            numbers.append(ramps[i - len(lying)][0])
        numbers += [steps_of[i] for _, steps_of in loops]
    return np.array(numbers, np.int64), len(loops)
