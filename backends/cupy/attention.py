"""Attention's core in one kernel, or two for its gradient, without the scores [B, N_H, S, S] in memory.

What is taken is what `attention_match` finds: back-to-back products where P is not held for the backward pass, from
the recompute level "attention" on. Everything else is left to products and fused kernels, and so are heads wider than
128, float32 with TF32 asked for, which cuBLAS multiplies on tensor cores, 16 bits before sm_80, and few queries of many
keys, as a token has that is made behind a long text: cuBLAS shares keys out among a whole device, this kernel does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphir.backends.compiled.assignment import Assignment
from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.compiled.kernels import Kernels
from graphir.backends.compiled.task import Task
from graphir.backends.cupy.attention_match import ROWS, AttentionRun, find_attention, inner_values
from graphir.backends.cupy.engine import CupyEngine
from graphir.backends.cupy.matmul import steps
from graphir.backends.cupy.module import compiled
from graphir.backends.cupy.sight import NONE, Sight
from graphir.backends.cupy.text import TYPES, included
from graphir.backends.effects import launches
from graphir.backends.rows.plan import RunTile
from graphir.backends.rows.runs import FusedRun, Keywords
from graphir.ir.types import DTYPES
from graphir.ir.value import Value
from graphir.operators.dropout import least_kept

#: The widest head: what a thread keeps of a result must fit into its registers.
_WIDEST = 128
#: Queries that do not fill a fragment, keys that are many to go through one after the other, and blocks of threads with
#: which a device has something to do in any case.
_FEW, _MANY, _BLOCKS = 16, 1024, 128
_FLOATS = ("float16", "bfloat16", "float32", "float64")
#: Shared memory that a device has for a block that asks for it, at least: any, and one whose tensor cores multiply what
#: is narrow; and what a block has unasked.
_SHARED, _SHARED_IF_NARROW, _UNASKED = 64 << 10, 96 << 10, 48 << 10


class Tiles(NamedTuple):
    """How a block of threads goes about: `warps`, each with `high` times 16 rows, and `wide` columns at a time."""

    high: int
    warps: int
    wide: int

    @property
    def rows(self) -> int:
        """How many rows of scores a block makes."""
        return 16 * self.high * self.warps

    def shared(self, held: int, width: int, itemsize: int) -> int:
        """Bytes of shared memory, with `held` operands of its rows, two of its columns, each twice, and numbers."""
        gap = 16 // itemsize
        spare = 0 if itemsize == 2 else self.rows * (self.wide + gap)
        return ((held * self.rows + 4 * self.wide) * (width + gap) + spare) * itemsize + 32 * self.wide


@dataclass(frozen=True)
class Kernel:
    """One of the sources, how many operands of its rows it holds, and tiles to choose from: the first that fit.

    narrow, dropping   of 16 bits, which the tensor cores multiply, without and with dropout
    """

    file: str
    held: int
    narrow: tuple[Tiles, ...]
    dropping: tuple[Tiles, ...]

    def tiles(self, itemsize: int, width: int, dropout: bool) -> Tiles | None:
        """For heads of `width`; None if they are too wide."""
        most = _SHARED_IF_NARROW if itemsize == 2 else _SHARED
        choice = _WIDE if itemsize > 2 else self.dropping if dropout else self.narrow
        for each in choice:
            # Twice the rows are twice the results in registers.
            if each.shared(self.held, width, itemsize) <= most and (each.high == 1 or width <= 64):
                return each
        return None


_WIDE = (Tiles(1, 4, 32), Tiles(1, 4, 16), Tiles(1, 2, 32), Tiles(1, 2, 16), Tiles(1, 1, 16))
# Two fragments of rows read half as much of shared memory for a product as one, which is what bounds these kernels, as
# long as what a thread keeps fits into its 255 registers.
_ONE = (Tiles(1, 4, 64), Tiles(1, 4, 32))
_TALL, _FLAT = (Tiles(2, 4, 64), *_ONE), (Tiles(2, 4, 32), *_ONE)
FORWARD = Kernel("attention.cu", 1, narrow=_TALL, dropping=_TALL)
QUERIES = Kernel("attention_queries.cu", 2, narrow=_FLAT, dropping=_FLAT)
KEYS = Kernel("attention_keys.cu", 2, narrow=_FLAT, dropping=_ONE)


class AttentionKernels:
    """As `others`, the kernels of runs, and attention's core before them."""

    def __init__(self, engine: CupyEngine, others: Kernels) -> None:
        self.engine, self.others = engine, others

    def runs(self, task: Task, assignment: Assignment, keywords: Keywords) -> Mapping[int, FusedRun]:
        """The runs of a task, by the position of their first node."""
        return {**self.others.runs(task, assignment, keywords), **find_attention(task)}

    def in_registers(self, task: Task) -> frozenset[Value]:
        """The scores, and what else is between a core's results and operands, of a task that is nothing but a core."""
        work = {node for node in task.nodes if not node.operator.view}
        for run in find_attention(task).values():
            if work == set(run.nodes) and self.fits(run):
                return inner_values(run)
        return frozenset()

    def fits(self, run: AttentionRun) -> bool:
        """Whether the kernels are for operands of these dtypes and this width."""
        operands = {run.roles[name].dtype for name in ("Q", "K_T", "V", "dO") if name in run.roles}
        results = {value.dtype for name, value in run.roles.items() if name not in ROWS and value in run.outputs}
        if len(operands) > 1 or len(results) > 1 or not operands | results <= set(_FLOATS):
            return False
        if self.engine.tf32 and "float32" in operands:
            return False
        *heads, queries, width = run.task.shapes[run.roles["Q"]]
        if queries < _FEW and run.task.shapes[run.roles["K_T"]][-1] > _MANY and math.prod(heads) < _BLOCKS:
            return False
        itemsize = DTYPES[operands.pop()]
        if itemsize == 2 and not self.engine.has_ampere_tensor_cores:
            return False
        kernels = (FORWARD,) if "O" in run.roles else (QUERIES, KEYS)
        tiles = [each.tiles(itemsize, padded(width), run.dropped is not None) for each in kernels]
        return width <= _WIDEST and None not in tiles

    def write(self, call: Calls, run: FusedRun, tile: RunTile) -> bool:
        """As `Kernels.write`."""
        if not isinstance(run, AttentionRun):
            return self.others.write(call, run, tile)
        return self.fits(run) and _Writing(self.engine, call, run, tile).write()


# -- writing ----------------------------------------------------------------------------------------------


@cache
def source(file: str, sight: Sight = NONE, **options: Any) -> str:
    """The text of a kernel: dtypes as typedefs, numbers and switches as constants before it."""
    types = [f"typedef {TYPES[each]} {name};" for name, each in options.items() if isinstance(each, str)]
    numbers = [f"const int {name} = {int(each)};" for name, each in options.items() if not isinstance(each, str)]
    folder = Path(__file__).parent / "cuda"
    parts = [*map(included, ("conversions", "hash", "copies", "products", "ranges")), *types, *numbers, sight.text]
    parts += map(included, ("attention", "sight"))
    return "\n".join([*parts, (folder / file).read_text(encoding="utf-8")])


def load(
    xp: Any, kernel: Kernel, tiles: Tiles, width: int, itemsize: int, options: Mapping[str, Any], sight: Sight = NONE
) -> partial[None]:
    """The kernel for these tiles, to be launched with the shared memory that it needs."""
    function: Any = compiled(xp, source(kernel.file, sight, **options, **tile_sizes(tiles, width)))
    size = tiles.shared(kernel.held, width, itemsize)
    if size > _UNASKED:
        function.max_dynamic_shared_size_bytes = size
    return partial(function, shared_mem=size)


def tile_sizes(tiles: Tiles, width: int) -> dict[str, int]:
    """What the sources call them."""
    return {"WIDTH": width, "HIGH": tiles.high, "WARPS": tiles.warps, "WIDE": tiles.wide}


def padded(width: int) -> int:
    """The width of a head in shared memory."""
    return -(-width // 16) * 16


class _Writing:
    """A run on a tile."""

    def __init__(self, engine: CupyEngine, call: Calls, run: AttentionRun, tile: RunTile) -> None:
        self.engine, self.call, self.run, self.tile = engine, call, run, tile
        self.arrays = {name: tile.arrays[value] for name, value in run.roles.items()}
        for name in ("K_T", "dK_T"):
            if name in self.arrays:
                self.arrays[name[:-2]] = self.arrays.pop(name).swapaxes(-1, -2)
        #: Heads are those of keys, each for a group of queries'.
        self.batch, self.heads, *group, self.queries, self.width = self.arrays["Q"].shape
        self.group, self.is_grouped = math.prod(group), bool(group)
        self.keys = self.arrays["K"].shape[2]
        self.sum = np.dtype(run.dtype).type
        self.sight = run.sight or NONE

    def write(self) -> bool:
        """Records the launches; False where there is nothing to launch."""
        if not all(each.size for each in self.arrays.values()):
            return False
        if "O" in self.arrays:
            self._launch(FORWARD, ("Q", "K", "V"), ("O",))
        else:
            self._launch(QUERIES, ("Q", "K", "V", "dO"), ("dQ",))
            self._launch(KEYS, ("Q", "K", "V", "dO"), ("dK", "dV"))
        return True

    def _launch(self, kernel: Kernel, operands: Sequence[str], results: Sequence[str]) -> None:
        arrays = [self.arrays[name] for name in (*operands, *results)]
        value, result = arrays[0].dtype.name, arrays[-1].dtype.name
        types = {"Value": value, "Result": result, "Sum": self.run.dtype, "Id": self._id_dtype()}
        width, itemsize = padded(self.width), arrays[0].itemsize
        tiles = kernel.tiles(itemsize, width, self._rate > 0)
        assert tiles is not None
        switches = {
            "MASK": self._mask_kind,
            "CAUSAL": self.sight is NONE and self._attributes["causal"],
            "DROPOUT": self._rate > 0,
            "PAIRED": self._is_paired,
            "STATISTICS": "top" in self.arrays,
            "GROUP": self.group,
        }
        sizes = (*map(np.int64, (self.heads, self.queries, self.keys)), np.int32(self.width))
        factors = (self.sum(1 / math.sqrt(self._attributes["width"])), self.sum(1 / (1 - self._rate)))
        numbers, number_steps = self._statistics(kernel, arrays[-1])
        of_arrays = [self._steps(name) for name in (*operands, *results)]
        lying = [np.int64(step) for each in (*of_arrays, *number_steps) for step in each]
        length, heads = (self.keys, 1) if kernel is KEYS else (self.queries, self.group)
        blocks = self.batch * self.heads * heads * -(-length // tiles.rows)
        arguments = (*arrays, *numbers, *sizes, *factors, *lying, *self._mask())
        arguments += tuple(self.sight.arguments([self.tile.arrays[value] for value in self.run.masked.inputs[1:]]))
        function = load(self.engine.xp, kernel, tiles, width, itemsize, {**types, **switches}, self.sight)
        # The forward pass leaves each row's numbers behind its results; the gradient reads them there.
        count = len(results) + len(numbers) * (kernel is FORWARD and "top" in self.arrays)
        launches(function.func, range(len(operands), len(operands) + count))
        self.call(function, (blocks,), (32 * tiles.warps,), arguments)

    def _statistics(self, kernel: Kernel, unwritten: Array) -> tuple[list[Array], list[Sequence[int]]]:
        """Each row's numbers, [b, h, g, q], and their strides; any array, where the forward pass leaves none."""
        if "top" not in self.arrays:
            return [unwritten] * 2, [(0, 0, 0, 0)] * 2
        names = ("top", "s") if kernel is FORWARD else ("top", "s", "c")
        found = [self.arrays[name] for name in names]
        return found, [*map(self._steps, names)]

    def _steps(self, name: str) -> Sequence[int]:
        """An array's strides in elements: of one by queries [b, h, g, q, ..], of one by keys [b, h, k, d]."""
        found = steps(self.arrays[name])
        return found if name in ("K", "V", "dK", "dV") else self._with_group(found)

    def _with_group(self, of_dims: Sequence[int]) -> Sequence[int]:
        """Strides, or the like, of b, h and what follows, with one of g behind them."""
        return of_dims if self.is_grouped else (*of_dims[:2], 0, *of_dims[2:])

    @property
    def _attributes(self) -> Mapping[str, Any]:
        return self.tile.keywords[self.run.masked]

    @property
    def _mask_kind(self) -> int:
        """0 for no mask, 1 for padding, 2 for a given one, of all b or of each; what is sighted has none beside."""
        if self.run.sight is not None:
            return 0
        return {"none": 0, "padding": 1, "given": 2, "each": 2}[self._attributes["mask"]]

    @property
    def _rate(self) -> float:
        return 0.0 if self.run.dropped is None else float(self.tile.keywords[self.run.dropped]["p"])

    @property
    def _ahead(self) -> int:
        """How many keys lie before the first query: query q sees keys up to q + so many."""
        at = self.tile.place(self.run.masked)
        return at.start("q") - at.start("k")

    def _id_dtype(self) -> str:
        return "int64" if self.run.dropped is None else self.run.dropped.inputs[1].dtype

    def _mask(self) -> tuple[Any, ...]:
        """Which scores count, and the stream of dropout: MASK_PARAMETERS of attention.cuh."""
        masked, dropped, unread = self.run.masked, self.run.dropped, self.arrays["Q"]
        kind, keep = self._mask_kind, unread
        strides: tuple[int, ...] = (0, 0, 0)
        if kind:
            keep = self.tile.arrays[masked.inputs[1]]
            strides = (keep.strides[0], 0, keep.strides[1]) if kind == 1 else ((0, *keep.strides)[-3:])
        seed, step, key, threshold = unread, unread, 0, 0
        if dropped is not None:
            seed, step = self.tile.arrays[dropped.inputs[1]], self.tile.arrays[dropped.inputs[2]]
            key, threshold = self.tile.keywords[dropped]["key"], least_kept(self._rate)
        places = (*map(np.int64, (*strides, self._ahead)), seed, step, np.uint64(key % (1 << 64)), np.uint32(threshold))
        return (keep, *places, *map(np.int64, self._elements))

    @property
    def _elements(self) -> tuple[int, ...]:
        """The number, in all of P, of the first element here, and how far the next of b, h, g and q are from it."""
        if self.run.dropped is None:
            return 0, 0, 0, 0, 0
        starts, sizes = self.tile.place(self.run.dropped).region("X")
        leading = tuple(math.prod(sizes[i:]) for i in range(1, len(sizes)))
        first = sum(start * size for start, size in zip(starts, (*leading, 1), strict=True))
        return first, *self._with_group(leading)

    @property
    def _is_paired(self) -> bool:
        """Whether rows begin with the first of two elements that share a hash, and all are of the first page."""
        origin, per_b, per_h, per_g, per_q = self._elements
        last = origin + self.batch * per_b + self.heads * per_h + self.group * per_g + self.queries * per_q
        return origin % 2 == 0 == per_q % 2 and last < 1 << 33
