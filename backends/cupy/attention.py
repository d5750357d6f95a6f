"""Attention's core in one kernel, or two for its gradient, without the scores [B, N_H, S, S] in memory.

What is taken is recognised by its nodes, whatever their names, casts between them left out:

    forward    A = Q • Kᵀ,  Z = SM(A),  P = S(Z),  P' = DO(P),  O = P' • V
    gradient   the same up to P', then dP' = dO • Vᵀ,  dV = P'ᵀ • dO,  dP = dDO(dP'),  dZ = dS(P, dP),  dA = dSM(dZ),
               dQ = dA • K,  dKᵀ = Qᵀ • dA

with nobody else reading what lies between. That is what a stream is where P is not held for the backward pass: from the
recompute level "attention" on. Everything else is left to products and fused kernels, and so are heads wider than 128,
and float32 with TF32 asked for, which cuBLAS multiplies on tensor cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, Kernels
from graphir.backends.compiled.storage import Homes
from graphir.backends.compiled.task import Task
from graphir.backends.cupy.engine import CupyEngine
from graphir.backends.cupy.kernels import compiled
from graphir.backends.cupy.matmul import steps
from graphir.backends.cupy.text import TYPES, included
from graphir.backends.rows.runs import Run
from graphir.ir.graph import Node
from graphir.ir.operator import Operator, Place
from graphir.ir.types import DTYPES
from graphir.ir.value import Value
from graphir.operators.attention import d_scale_mask, d_softmax, scale_mask, softmax
from graphir.operators.cast import cast
from graphir.operators.dropout import d_dropout, dropout
from graphir.operators.linear import d_matmul, matmul

#: The widest head: what a thread keeps of a result must fit into its registers.
_WIDEST = 128
_FLOATS = ("float16", "bfloat16", "float32", "float64")
#: Warps, each of 16 rows, and how many columns of scores are made at a time: the first that fits.
_TILES = ((4, 64), (4, 32), (4, 16), (2, 32), (2, 16), (1, 16))
#: Shared memory that every device has for a block.
_SHARED = 48 << 10
#: A draw of dropout has so many values.
_LEVELS = 1 << 16


@dataclass(frozen=True)
class AttentionRun(Run):
    """The nodes of attention's core, or of its gradient. `roles`: Q, K_T, V, dO, O, dQ, dK_T, dV, as far as there are.

    masked, dropped   the nodes that mask the scores, and drop probabilities, if any
    """

    roles: Mapping[str, Value]
    masked: Node
    dropped: Node | None


class AttentionKernels:
    """As `others`, the kernels of runs, and attention's core before them."""

    def __init__(self, engine: CupyEngine, others: Kernels) -> None:
        self.engine, self.others = engine, others

    def runs(self, task: Task, homes: Homes) -> Mapping[int, Run]:
        """The runs of a task, by the position of their first node."""
        return {**self.others.runs(task, homes), **find_attention(task)}

    def held(self, task: Task) -> frozenset[Value]:
        """The scores, and what else is between a core's results and operands, of a task that is nothing but a core."""
        work = {node for node in task.nodes if not node.operator.view}
        for run in find_attention(task).values():
            if work == set(run.nodes) and self.fits(run):
                return _inner(run)
        return frozenset()

    def fits(self, run: AttentionRun) -> bool:
        """Whether the kernels are for operands of these dtypes and this width."""
        operands = {run.roles[name].dtype for name in ("Q", "K_T", "V", "dO") if name in run.roles}
        results = {value.dtype for value in run.outputs}
        if len(operands) > 1 or len(results) > 1 or not operands | results <= set(_FLOATS):
            return False
        if self.engine.tf32 and "float32" in operands:
            return False
        width, itemsize = run.task.shapes[run.roles["Q"]][-1], DTYPES[operands.pop()]
        # The gradient's kernels hold the most.
        tiles = choose_tiles(itemsize, _padded(width), 1 if "O" in run.roles else 2, 2)
        return width <= _WIDEST and tiles is not None

    def write(
        self,
        call: Calls,
        run: Run,
        arrays: Mapping[Value, Array],
        sizes: Sequence[int],
        place: Callable[[Node], Place],
        keywords: Mapping[Node, Mapping[str, Any]],
    ) -> bool:
        """As `Kernels.write`."""
        if not isinstance(run, AttentionRun):
            return self.others.write(call, run, arrays, sizes, place, keywords)
        return self.fits(run) and _Writing(self.engine, call, run, arrays, place, keywords).write()


# -- finding ----------------------------------------------------------------------------------------------


def find_attention(task: Task) -> dict[int, AttentionRun]:
    """Attention's core and its gradient among a task's nodes, by the position of the first."""
    work = [(position, node) for position, node in enumerate(task.nodes) if not node.operator.view]
    found: dict[int, AttentionRun] = {}
    for index, (position, node) in enumerate(work):
        if node.operator is matmul and len(node.outputs[0].shape) == 4:
            try:
                run = _Match(task, work[index:]).run()
            except _MismatchError:
                continue
            if _is_closed(run):
                found[position] = run
    return found


def _inner(run: AttentionRun) -> frozenset[Value]:
    """What the run makes and does not leave."""
    return frozenset(value for node in run.nodes for value in node.outputs) - set(run.outputs)


def _is_closed(run: AttentionRun) -> bool:
    """Whether nobody outside reads what the run does not leave, or a view of it."""
    inner, mine = set(_inner(run)), set(run.nodes)
    for node in run.task.nodes:
        if node.operator.view and node.inputs[0] in inner:
            inner.add(node.outputs[0])
        elif node not in mine and not inner.isdisjoint(node.inputs):
            return False
    return inner.isdisjoint(run.task.leaving)


class _MismatchError(Exception):
    """The nodes are not attention's."""


class _Match:
    """Goes through nodes one after the other, casts left out."""

    def __init__(self, task: Task, work: Sequence[tuple[int, Node]]) -> None:
        self.task, self.work = task, work
        self.taken: list[Node] = []
        #: What a cast of this run is made of.
        self.source: dict[Value, Value] = {}
        self.stop = 0

    def run(self) -> AttentionRun:
        """The run that the nodes begin with. Errors: _MismatchError if they do not."""
        first = self._take(matmul)
        masked = self._take(scale_mask, A=first.outputs[0])
        P = self._take(softmax, Z=masked.outputs[0]).outputs[0]
        dropped = self._take(dropout, X=P) if self._next() is dropout else None
        kept = P if dropped is None else _result(dropped, "Y")
        roles = {"Q": first.inputs[0], "K_T": first.inputs[1]}
        if self._next() is matmul:
            last = self._take(matmul, X=kept)
            roles |= {"V": last.inputs[1], "O": last.outputs[0]}
        else:
            roles |= self._gradient(roles, masked, P, dropped, kept)
        if any(self.source.keys() & {value} for value in roles.values()):
            raise _MismatchError
        made = {value for node in self.taken for value in node.outputs}
        inputs = dict.fromkeys(v for node in self.taken for v in node.inputs if v not in made)
        outputs = tuple(value for name, value in roles.items() if value in made)
        dtype = "float64" if roles["Q"].dtype == "float64" else "float32"
        return AttentionRun(
            self.task, tuple(self.taken), (), tuple(inputs), outputs, dtype, self.stop, roles, masked, dropped
        )

    def _gradient(
        self, roles: Mapping[str, Value], masked: Node, P: Value, dropped: Node | None, kept: Value
    ) -> dict[str, Value]:
        """The roles of what follows P' in the gradient."""
        of_kept = self._take(d_matmul, only=("dX",))
        dO = _operand(of_kept, "dY")
        of_v = self._take(d_matmul, only=("dW",), X=kept, dY=dO)
        dP = of_kept.outputs[0]
        if dropped is not None:
            dP = self._take(d_dropout, m=_result(dropped, "m"), dY=dP).outputs[0]
        dZ = self._take(d_softmax, P=P, dP=dP).outputs[0]
        slope = self._take(d_scale_mask, dZ=dZ)
        if slope.attributes != masked.attributes or slope.inputs[1:] != masked.inputs[1:]:
            raise _MismatchError
        dA = slope.outputs[0]
        of_q = self._take(d_matmul, only=("dX",), W=roles["K_T"], dY=dA)
        of_k = self._take(d_matmul, only=("dW",), X=roles["Q"], dY=dA)
        V = _operand(of_kept, "W")
        return {"V": V, "dO": dO, "dQ": of_q.outputs[0], "dK_T": of_k.outputs[0], "dV": of_v.outputs[0]}

    def _next(self) -> Operator | None:
        """The operator that comes next; casts on the way are taken."""
        while len(self.taken) < len(self.work):
            node = self.work[len(self.taken)][1]
            if node.operator is not cast:
                return node.operator
            self.taken.append(node)
            self.source[node.outputs[0]] = self.source.get(node.inputs[0], node.inputs[0])
        return None

    def _take(self, operator: Operator, only: tuple[str, ...] | None = None, **operands: Value) -> Node:
        """The next node, of this operator, with these operands."""
        if self._next() is not operator:
            raise _MismatchError
        position, node = self.work[len(self.taken)]
        given = {name: _operand(node, name) for name in operands}
        if (only is not None and node.attributes["only"] != only) or any(
            self.source.get(given[name], given[name]) is not value for name, value in operands.items()
        ):
            raise _MismatchError
        self.taken.append(node)
        self.stop = position + 1
        return node


def _operand(node: Node, name: str) -> Value:
    names = [operand.name for operand in node.inference.rule.inputs]
    if name not in names:
        raise _MismatchError
    return node.inputs[names.index(name)]


def _result(node: Node, name: str) -> Value:
    names = [operand.name for operand in node.inference.rule.outputs]
    return node.outputs[names.index(name)]


# -- writing ----------------------------------------------------------------------------------------------


@cache
def source(file: str, **options: Any) -> str:
    """The text of a kernel: dtypes as typedefs, numbers and switches as constants before it."""
    types = [f"typedef {TYPES[each]} {name};" for name, each in options.items() if isinstance(each, str)]
    numbers = [f"const int {name} = {int(each)};" for name, each in options.items() if not isinstance(each, str)]
    folder = Path(__file__).parent / "cuda"
    parts = [*map(included, ("conversions", "hash", "products")), *types, *numbers, included("attention")]
    return "\n".join([*parts, (folder / file).read_text(encoding="utf-8")])


def _padded(width: int) -> int:
    """The width of a head in shared memory."""
    return -(-width // 16) * 16


def choose_tiles(itemsize: int, width: int, tall: int, wide: int) -> tuple[int, int] | None:
    """Warps and columns of scores for a kernel that holds so many operands of its rows and of its columns."""
    gap = 16 // itemsize
    for warps, columns in _TILES:
        rows = 16 * warps
        size = (tall * rows + wide * columns) * (width + gap) + rows * (columns + gap)
        if size * itemsize <= _SHARED:
            return warps, columns
    return None


class _Writing:
    """A run on a tile."""

    def __init__(
        self,
        engine: CupyEngine,
        call: Calls,
        run: AttentionRun,
        arrays: Mapping[Value, Array],
        place: Callable[[Node], Place],
        keywords: Mapping[Node, Mapping[str, Any]],
    ) -> None:
        self.engine, self.call, self.run, self.place, self.keywords = engine, call, run, place, keywords
        self.given = arrays
        self.arrays = {name: arrays[value] for name, value in run.roles.items()}
        for name in ("K_T", "dK_T"):
            if name in self.arrays:
                self.arrays[name[:-2]] = self.arrays.pop(name).swapaxes(-1, -2)
        Q = self.arrays["Q"]
        self.batch, self.heads, self.queries, self.width = Q.shape
        self.keys = self.arrays["K"].shape[2]
        self.sum = np.dtype(run.dtype).type

    def write(self) -> bool:
        """Records the launches; False where there is nothing to launch."""
        operands = [self.arrays[name] for name in ("Q", "K", "V", "dO") if name in self.arrays]
        results = [self.arrays[name] for name in ("O", "dQ", "dK", "dV") if name in self.arrays]
        if not all(each.size for each in (*operands, *results)):
            return False
        value, result = operands[0].dtype.name, results[0].dtype.name
        types = {"Value": value, "Result": result, "Sum": self.run.dtype, "Id": self._id_dtype()}
        if "O" in self.arrays:
            self._launch("attention.cu", types, self.queries, (1, 2), operands, results)
            return True
        rows = self.call.scratch((3, self.batch * self.heads * self.queries), self.run.dtype)
        dQ, dK, dV = results
        self._launch("attention_queries.cu", types, self.queries, (2, 2), operands, [dQ], rows)
        self._launch("attention_keys.cu", types, self.keys, (2, 2), operands, [dK, dV], rows)
        return True

    def _launch(
        self,
        file: str,
        types: Mapping[str, str],
        length: int,
        held: tuple[int, int],
        operands: Sequence[Array],
        results: Sequence[Array],
        rows: Array | None = None,
    ) -> None:
        width = _padded(self.width)
        tiles = choose_tiles(operands[0].itemsize, width, *held)
        assert tiles is not None
        warps, wide = tiles
        attributes = self.keywords[self.run.masked]
        switches = {"MASK": _mask_kind(attributes["mask"]), "CAUSAL": attributes["causal"], "DROPOUT": self._rate > 0}
        text = source(file, **types, WIDTH=width, WARPS=warps, WIDE=wide, **switches)
        shared = () if rows is None else (rows, np.int64(rows.shape[1]))
        sizes = (*map(np.int64, (self.heads, self.queries, self.keys)), np.int32(self.width))
        factors = (self.sum(1 / math.sqrt(attributes["width"])), self.sum(1 / (1 - self._rate)))
        lying = [np.int64(step) for each in (*operands, *results) for step in steps(each)]
        blocks = self.batch * self.heads * -(-length // (16 * warps))
        arguments = (*operands, *results, *shared, *sizes, *factors, *lying, *self._mask())
        self.call(compiled(self.engine.xp, text), (blocks,), (32 * warps,), arguments)

    @property
    def _rate(self) -> float:
        return 0.0 if self.run.dropped is None else float(self.keywords[self.run.dropped]["p"])

    def _id_dtype(self) -> str:
        return "int64" if self.run.dropped is None else self.run.dropped.inputs[1].dtype

    def _mask(self) -> tuple[Any, ...]:
        """Which scores count, and the stream of dropout: MASK_PARAMETERS of attention.cuh."""
        masked, dropped, unread = self.run.masked, self.run.dropped, self.arrays["Q"]
        at, kind = self.place(masked), _mask_kind(self.keywords[masked]["mask"])
        keep = unread
        strides: tuple[int, ...] = (0, 0, 0)
        leading: tuple[int, ...] = (0, 0, 0)
        if kind:
            keep = self.given[masked.inputs[1]]
            strides = (keep.strides[0], 0, keep.strides[1]) if kind == 1 else (0, *keep.strides)
        ahead = at.start("q") - at.start("k")
        seed, step, key, threshold, origin = unread, unread, 0, 0, 0
        if dropped is not None:
            seed, step = self.given[dropped.inputs[1]], self.given[dropped.inputs[2]]
            starts, sizes = self.place(dropped).region("X")
            leading = (sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3])
            origin = sum(start * size for start, size in zip(starts, (*leading, 1), strict=True))
            key, threshold = self.keywords[dropped]["key"], min(round(self._rate * _LEVELS), _LEVELS - 1)
        places = (*map(np.int64, (*strides, ahead)), seed, step, np.uint64(key % (1 << 64)), np.uint32(threshold))
        return (keep, *places, *map(np.int64, (origin, *leading)))


def _mask_kind(mask: str) -> int:
    """0 for no mask, 1 for padding, 2 for a given one."""
    return {"none": 0, "padding": 1, "given": 2}[mask]
