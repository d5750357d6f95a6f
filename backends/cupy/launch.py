"""Fused CUDA kernels for the runs of a task: from the arrays of a tile to one launch, or two where rows are summed.

A recorded launch is `kernel(grid, block, arguments)` of a compiled module. Arrays may lie in any way: what lies side by
side and is aligned is loaded in packs, all else element by element. A sum over rows is left by the blocks as terms in
scratch memory, and a second kernel adds them up; where a result lacks only some of the rows, all that is to be added
is written out. Nothing is read on the host: a kernel makes numbers that are known at run time itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.compiled.engine import Engine
from graphir.backends.cupy.form import (
    REGISTERS,
    SLAB,
    Form,
    Kind,
    elements_form,
    kept_by,
    make_schedule,
    rows_form,
    slabs_form,
)
from graphir.backends.cupy.module import compiled
from graphir.backends.cupy.row_body import CannotWriteError, KernelSpec
from graphir.backends.cupy.source import Prologue, source_of
from graphir.backends.cupy.text import TYPES, sum_text
from graphir.backends.effects import launches
from graphir.backends.rows.draws import write_keys
from graphir.backends.rows.expressions import Expression, Prepared
from graphir.backends.rows.geometry import LaidRamp, Loop, merge_loops
from graphir.backends.rows.plan import KernelPlan, Part, RunTile
from graphir.backends.rows.runs import FusedRun
from graphir.backends.rows.scalars import Scalars
from graphir.backends.rows.schedule import Store, find_expressions

#: Enough blocks to fill any device; where each leaves terms, fewer, for these are to be added up.
_BLOCKS, _TERMS = 2048, 512
_PACK = 16
#: Elements of a row, and of terms, that a thread may keep in registers before it goes over the row again instead.
_REGISTERS_OF_A_ROW = 192
#: So many elements are counted with 32 bits, a grid's step behind the last included.
NARROW = 1 << 30


@dataclass(frozen=True)
class _Array:
    """An array of a kernel: its strides, in elements, along the run's axes."""

    array: Array
    dtype: str
    strides: Sequence[int]
    each: bool
    address: int


class _Written(NamedTuple):
    """A compiled kernel, the dtypes of what its blocks keep of a row, and the stores of which it leaves terms."""

    kernel: Callable[..., None]
    buffers: list[str]
    terms: list[Store]


@dataclass(frozen=True)
class _Nest:
    """The loops of a kernel.

    used     the numbers of the arrays that are read or written
    loops    over the rows; each has a step for every array that is used, then for every ramp
    columns  the loop over the columns, likewise
    vector   how many columns make a pack
    kinds    of every array its dtype, and whether it lies in packs
    """

    used: list[int]
    loops: list[Loop]
    columns: Loop
    vector: int
    kinds: list[Kind]

    @property
    def rows(self) -> int:
        return math.prod(size for size, _ in self.loops)

    @property
    def width(self) -> int:
        return self.columns[0]

    def integers(self, ramps: Sequence[int]) -> Iterator[np.int64]:
        """The kernel's last arguments: sizes, then the steps of each array and ramp, behind where the ramp begins."""
        yield from (np.int64(size) for size, _ in self.loops)
        yield np.int64(self.width)
        for position, column in enumerate(self.columns[1]):
            if position >= len(self.used):
                yield np.int64(ramps[position - len(self.used)])
            yield from (np.int64(step[position]) for _, step in self.loops)
            yield np.int64(column)


class Launch:
    """One run on one tile, on its way to a launch."""

    def __init__(
        self,
        engine: Engine,
        call: Calls,
        run: FusedRun,
        plan: KernelPlan,
        tile: RunTile,
        lying: Mapping[int, Part],
        dtypes: Mapping[int, str],
        ramps: Sequence[LaidRamp],
    ) -> None:
        self.engine, self.call, self.run, self.plan, self.tile, self.ramps = (
            engine, call, run, plan, tile, ramps
        )  # fmt: skip
        self.dtype = np.dtype(run.dtype)
        place = {index: i for i, index in enumerate(sorted(lying))}
        self.arrays = [
            _Array(part.array, dtypes[index], part.strides, part.each, part.address)
            for index, part in sorted(lying.items())
        ]
        self.slots = {slot: place[index] for slot, index in plan.slots.items()}
        self.stores = [Store(place[s.array], s.value, s.each, s.adds) for s in plan.stores]
        #: Sums over some of the rows only: what is summed, with the axes that are, and the array of the sum.
        self.spread: list[tuple[_Array, list[int], _Array]] = []
        self.stores = [self._spread(store) if store.adds else store for store in self.stores]

    def _spread(self, store: Store) -> Store:
        """The store as it is if it lacks all rows; else one of all that is summed, [*summed, *kept, d]."""
        target, sizes = self.arrays[store.array], self.tile.sizes
        mine = {axis for axis, step in enumerate(target.strides[:-1]) if step}
        if not mine:
            return store
        order = [axis for axis in range(len(sizes) - 1) if axis not in mine] + sorted(mine)
        columns = [len(sizes) - 1] if store.each else []
        strides, step = [0] * len(sizes), 1
        for axis in reversed([*order, *columns]):
            strides[axis], step = step, step * sizes[axis]
        terms = self.call.scratch((step,), self.dtype)
        whole = _Array(terms, self.run.dtype, strides, store.each, self.engine.address(terms))
        self.arrays.append(whole)
        self.spread.append((whole, [*sorted(mine), *columns], target))
        return Store(len(self.arrays) - 1, store.value, store.each, adds=False)

    # -- recording ------------------------------------------------------------------------------------

    def record(self) -> bool:
        """Records the launches; False if the kernel cannot be written."""
        nest = self._nest()
        form = self._form(nest)
        written = self._kernel(nest, form)
        if written is None:
            return False
        kernel, buffers, terms = written
        blocks, *slabs = self._blocks(form, nest.rows, nest.width, bool(terms))
        partial = [self.call.scratch((blocks, nest.width if store.each else 1), self.dtype) for store in terms]
        kept = [
            self.call.scratch((blocks * form.teams * nest.width,), _numpy_dtype(kind, self.dtype)) for kind in buffers
        ]
        arrays = [*(self.arrays[i].array for i in nest.used), *partial, *kept]
        self._declare_effects(kernel, nest.used, len(arrays))
        arguments = (*arrays, *self._prepared(), *self._numbers(), *nest.integers([ramp[0] for ramp in self.ramps]))
        self.call(kernel, (blocks, *slabs), (form.block,), arguments)
        sizes = self.tile.sizes
        for store, each in zip(terms, partial, strict=True):
            self._add_up(each, blocks, [len(sizes) - 1] if store.each else [], self.arrays[store.array])
        for whole, axes, target in self.spread:
            self._add_up(whole.array, whole.array.size // math.prod(sizes[axis] for axis in axes), axes, target)
        return True

    def _nest(self) -> _Nest:
        used = sorted({*self.slots.values(), *(store.array for store in self.stores if not store.adds)})
        steps = [*(self.arrays[i].strides for i in used), *(along for _, along in self.ramps)]
        loops, columns = self._loops(steps, self._needs_rows())
        vector = self._vector(used, loops, columns)
        kinds = [Kind(each.dtype, False) for each in self.arrays]
        for position, i in enumerate(used):
            by_row = [step[position] for _, step in loops]
            kinds[i] = Kind(kinds[i].dtype, self._packs(self.arrays[i], by_row, columns[1][position], vector))
        return _Nest(used, loops, columns, vector, kinds)

    def _form(self, nest: _Nest) -> Form:
        """Who computes what: a thread elements, a team of threads a row, or a thread a slab of columns."""
        wide, vector, width = math.prod(self.tile.sizes) >= NARROW, nest.vector, nest.width
        pairs = [
            self._pairs(ramp.detail, len(nest.used), nest.loops, nest.columns, vector)
            for ramp, _, _ in self.plan.row.masks
        ]
        if not self._needs_rows():
            return elements_form(vector, wide, pairs)
        form = rows_form(width, vector, wide, pairs)
        schedule = make_schedule(self.stores, self.slots, nest.kinds, form, self.run.dtype)
        held = len(kept_by(schedule)) + sum(store.adds and store.each for store in self.stores)
        if held * form.kept > _REGISTERS_OF_A_ROW:
            form = rows_form(width, vector, wide, pairs, unrolled=False)
        if not form.steps and self._has_slabs():
            form = slabs_form(vector, wide, pairs)
        return form

    def _kernel(self, nest: _Nest, form: Form) -> _Written | None:
        """The kernel, compiled once for all launches of the plan that are alike; None if it cannot be written."""
        prologues = list(map(self._prologue, self.plan.row.prepared))
        loops = len(nest.loops)
        key = form, tuple(nest.kinds), tuple(prologues), loops, tuple(store.adds for store in self.stores)
        if key not in self.plan.kernels:
            spec = KernelSpec(self.plan.row, self.stores, self.slots, nest.kinds, loops, form, self.run.dtype)
            try:
                text = source_of(spec, prologues)
                self.plan.kernels[key] = _Written(self._compile(text), spec.buffers, spec.terms)
            except CannotWriteError:
                self.plan.kernels[key] = None
        found: _Written | None = self.plan.kernels[key]
        return found

    def _declare_effects(self, kernel: Callable[..., None], used: Sequence[int], arrays: int) -> None:
        """Says which arrays the kernel writes: results among those `used`, which it may read, and all others."""
        written = {store.array for store in self.stores if not store.adds}
        outputs = [position for position, i in enumerate(used) if i in written]
        read = [position for position in outputs if used[position] in self.slots.values()]
        launches(kernel, [*outputs, *range(len(used), arrays)], read)

    def _needs_rows(self) -> bool:
        """Whether a team has to work on a row together."""
        if any(store.adds or (not store.each and self.tile.sizes[-1] > 1) for store in self.stores):
            return True
        return bool(find_expressions(self.stores, "sum", "max"))

    def _loops(self, steps: Sequence[Sequence[int]], by_rows: bool) -> tuple[list[Loop], Loop]:
        """The loops over rows, and that over the columns, which rows may be part of where nothing asks for a column."""
        sizes = self.tile.sizes
        if by_rows or sizes[-1] == 1 or find_expressions(self.stores, "column", "width", "count", "pick"):
            return merge_loops(sizes[:-1], [each[:-1] for each in steps]), (sizes[-1], [each[-1] for each in steps])
        *loops, last = merge_loops(sizes, steps)
        return loops or [(1, [0] * len(steps))], last

    def _has_slabs(self) -> bool:
        """Whether columns know nothing of each other, and a thread can hold the terms of a slab's."""
        alone = all(store.each for store in self.stores) and not find_expressions(self.stores, "sum", "max", "pick")
        return alone and sum(store.adds for store in self.stores) * SLAB <= REGISTERS

    def _blocks(self, form: Form, rows: int, width: int, terms: bool) -> tuple[int, ...]:
        """The grid: blocks that share the rows, and, if there are any, slabs of the columns."""
        if form.slabs:
            slabs = -(-width // (form.block * form.kept))
            return min(rows, -(-_BLOCKS // slabs)), slabs
        if form.team:
            return (min(-(-rows // form.teams), _TERMS if terms else _BLOCKS),)
        return (min(-(-rows * (width // form.vector) // form.block), _BLOCKS),)

    # -- packs ----------------------------------------------------------------------------------------

    def _vector(self, used: Sequence[int], loops: Sequence[Loop], last: Loop) -> int:
        for vector in (4, 2):
            if last[0] % vector == 0 and any(
                self._packs(self.arrays[i], [step[p] for _, step in loops], last[1][p], vector)
                for p, i in enumerate(used)
            ):
                return vector
        return 1

    def _packs(self, array: _Array, steps: Sequence[int], column: int, vector: int) -> bool:
        """Whether packs of an array are aligned in every row."""
        if vector == 1 or not array.each or column != 1:
            return vector == 1 and column == 1
        aligned = array.address % min(_PACK, vector * array.array.itemsize) == 0
        return aligned and all(step % vector == 0 for step in steps)

    def _pairs(self, ramp: int, offset: int, loops: Sequence[Loop], last: Loop, vector: int) -> bool:
        """Whether a mask's packs begin at even elements and lie side by side."""
        first, steps = self.ramps[ramp][0], [step[offset + ramp] for _, step in loops]
        return vector > 1 and last[1][offset + ramp] == 1 and not any(number % 2 for number in (first, *steps))

    # -- arguments ------------------------------------------------------------------------------------

    def _prologue(self, prepared: Prepared) -> Prologue:
        known = self.tile.keywords[self.run.nodes[prepared.node]]
        kinds = []
        for each in prepared.arguments:
            if isinstance(each, Expression):
                kinds.append(f"{TYPES[self.run.inputs[each.detail].dtype]}*")
            elif isinstance(each, Scalars):
                kinds += ["double"] * len(each.numbers)
            else:
                kinds.append("long long" if isinstance(known[each], int) else "double")
        if prepared.function is write_keys:
            return Prologue(None, tuple(kinds), "Keys", 1)
        (scalars,) = (each for each in prepared.arguments if isinstance(each, Scalars))
        return Prologue(scalars, tuple(kinds), "T", prepared.count)

    def _prepared(self) -> Iterator[Any]:
        for prepared in self.plan.row.prepared:
            known = self.tile.keywords[self.run.nodes[prepared.node]]
            for each in prepared.arguments:
                if isinstance(each, Expression):
                    yield self.tile.arrays[self.run.inputs[each.detail]]
                elif isinstance(each, Scalars):
                    yield from map(np.float64, each.numbers)
                elif isinstance(known[each], int):
                    # As its lower 64 bits, whatever the integer.
                    yield np.uint64(known[each] & 0xFFFFFFFFFFFFFFFF).astype(np.int64)
                else:
                    yield np.float64(known[each])

    def _numbers(self) -> Iterator[Any]:
        return (self.dtype.type(number) for number in self.plan.row.numbers)

    # -- compiling ------------------------------------------------------------------------------------

    def _add_up(self, terms: Array, count: int, axes: Sequence[int], target: _Array) -> None:
        """Records target[*axes] = Σ terms[:, *axes] over `count` rows of terms."""
        loops = merge_loops([self.tile.sizes[axis] for axis in axes], [[target.strides[axis] for axis in axes]])
        width = math.prod(size for size, _ in loops)
        kernel = launches(self._compile(sum_text(self.run.dtype, target.dtype, len(loops))), [1])
        integers = [count, width, *(size for size, _ in loops), *(step[0] for _, step in loops)]
        blocks = min(-(-width // 32), _BLOCKS)
        self.call(kernel, (blocks,), (256,), (terms, target.array, *map(np.int64, integers)))

    def _compile(self, text: str) -> Callable[..., None]:
        return compiled(self.engine.xp, text)


def _numpy_dtype(kind: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of a buffer's type in CUDA."""
    return dtype if kind == "T" else np.dtype({"long long": "int64", "int": "int32", "bool": "bool"}[kind])
