"""The floor: the matrix products of a step, and nothing else, on NumPy's BLAS.

The products are read from the graph: Y = X • W of each matmul, dX = dY • Wᵀ and dW = Xᵀ • dY of each dMatmul, as far
as they are needed. Of attention's products only the causal half counts, by blocks of rows, with scores that are
never stored whole. Each is a call of `np.matmul` into a buffer that is there already: parameters and their gradients
have arrays of their own, activations share one for each shape, as they would in an arena.

Products run either on threads of our own, each with its rows and a BLAS of one thread, or one after the other on all
threads of BLAS. No thread waits for another before the end, which a real step would have to.

Notation: G = B N_H matrices in a stack; a *part* is one thread's share of the rows of all products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np

from benchmarks.contestants.problem import Problem
from graphir.backends.blas import find_blas, gemm_rate, single_threaded_blas
from graphir.ir.dims import resolve_sizes
from graphir.ir.graph import Graph, Node
from graphir.ir.value import Value
from graphir.passes import dce

Array: TypeAlias = np.ndarray
#: left • right into out, each a matrix or a stack of them.
Call: TypeAlias = tuple[Array, Array, Array]

#: Rows of scores at a time: fewer skip more of what is masked, more are faster to multiply.
BLOCK = 64
#: Bytes of scores at a time, so that they stay in a core's cache.
TILE = 1 << 20


def rate() -> float:
    return gemm_rate()


def prepare(
    problem: Problem, parameters: Mapping[str, Any], batch: Mapping[str, Any], own_threads: bool
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    blas = find_blas()
    parts = blas.threads if own_threads and blas is not None else 1
    calls = Products(dce(problem.graph()), problem.sizes, parts).calls
    pool = ThreadPoolExecutor(parts)

    def multiply(part: list[Call]) -> None:
        for left, right, out in part:
            np.matmul(left, right, out=out)

    def step() -> None:
        with single_threaded_blas() if own_threads else nullcontext():
            for done in [pool.submit(multiply, part) for part in calls]:
                done.result()

    return step, dict


@dataclass(frozen=True)
class Operand:
    """A value as a product reads it: as it is, or transposed in its last two dims."""

    value: Value
    transposed: bool = False

    @property
    def swapped(self) -> Operand:
        """The same, transposed once more."""
        return Operand(self.value, not self.transposed)

    @property
    def is_scores(self) -> bool:
        """Whether it holds a number for each query and key, of which the causal mask leaves half."""
        shape = self.value.shape
        return len(shape) > 2 and shape[-1] == shape[-2]


class Products:
    """The calls of each part of the work, and the arrays that they use."""

    def __init__(
        self,
        graph: Graph,
        sizes: Mapping[str, int],
        parts: int,
        block: int | None = None,
        tile: int | None = None,
        scores: bool | None = None,
    ) -> None:
        """Of all products, or, as `scores` says, of those of attention's scores, or of all others."""
        self.graph, self.parts = graph, parts
        self._block, self._tile = block or BLOCK, tile or TILE
        self.sizes = resolve_sizes([graph.dims], sizes)
        self.calls: list[list[Call]] = [[] for _ in range(parts)]
        self._own = {*graph.parameters, *graph.outputs}
        self._arrays: dict[object, Array] = {}
        for node in graph.nodes:
            for left, right, out in _products(node):
                of_scores = any(each.is_scores for each in (left, right, out))
                if scores is not None and of_scores != scores:
                    continue
                if of_scores:
                    self._causal(left, right, out)
                else:
                    self._whole(left, right, out)

    @property
    def flops(self) -> int:
        """Floating-point operations of all calls, a multiplication and an addition counted as two."""
        return sum(2 * prod(out.shape) * left.shape[-1] for part in self.calls for left, _, out in part)

    def _whole(self, left: Operand, right: Operand, out: Operand) -> None:
        """One product of matrices; each part has its rows of the result, a weight's gradient too."""
        A, B, C = self._array(left, "left"), self._array(right, "right"), self._array(out, "out")
        for part, rows in enumerate(_split(len(C), self.parts)):
            self.calls[part].append((A[rows], B, C[rows]))

    def _causal(self, left: Operand, right: Operand, out: Operand) -> None:
        """A stack of products with scores, of which query q has those of keys k ≤ q; each part has its matrices."""
        if right.is_scores:
            # Yᵀ = Bᵀ • Aᵀ: so the scores stand on the left, or are the result.
            left, right, out = right.swapped, left.swapped, out.swapped
        B = self._array(right, "right")
        if out.is_scores:
            A = self._array(left, "left")
            for part, some, rows, seen in self._blocks(*A.shape[:2]):
                scores = self._scores(part, some, rows, seen)
                self.calls[part].append((A[some, rows], B[some, :, seen], scores))
        else:
            C = self._array(out, "out")
            for part, some, rows, seen in self._blocks(*C.shape[:2], left.transposed):
                scores = self._scores(part, some, rows, seen, left.transposed)
                self.calls[part].append((scores, B[some, seen], C[some, rows]))

    def _blocks(self, G: int, S: int, by_key: bool = False) -> Iterator[tuple[int, slice, slice, slice]]:
        """Each block of scores: its part, some matrices of the stack, some rows, and the columns that count.

        Rows are queries, which see the keys before them; or keys, seen by the queries behind them.
        """
        for part, matrices in enumerate(_split(G, self.parts)):
            for rows in _split(S, -(-S // self._block)):
                seen = slice(rows.start, S) if by_key else slice(0, rows.stop)
                count = max(1, self._tile // (4 * _length(rows) * _length(seen)))
                for start in range(matrices.start, matrices.stop, count):
                    yield part, slice(start, min(start + count, matrices.stop)), rows, seen

    # -- what it is stored in ---------------------------------------------------------------------------

    def _array(self, operand: Operand, role: str) -> Array:
        """The operand's array, a matrix [m, n] or a stack [G, m, n]; a result is stored as it is written."""
        value, producer = operand.value, self.graph.producers.get(operand.value)
        if producer is not None and producer.operator.key == "T" and producer.attributes["perm"] in _SWAPS:
            # A view: BLAS reads the original the other way round.
            return self._array(Operand(producer.inputs[0], not operand.transposed), role)
        *stack, m, n = (dim.size(self.sizes) for dim in value.shape)
        shape = (prod(stack), m, n) if len(stack) > 1 else (prod(stack) * m, n)
        if role == "out" and operand.transposed:
            return self._stored((role, shape), (*shape[:-2], shape[-1], shape[-2]))
        found = self._stored(value.name if value in self._own else (role, shape), shape)
        return found.swapaxes(-1, -2) if operand.transposed else found

    def _scores(self, part: int, some: slice, rows: slice, seen: slice, transposed: bool = False) -> Array:
        """A block of scores [matrices, rows, columns]; all blocks of a part lie in one place."""
        count, m, n = _length(some), _length(rows), _length(seen)
        place = self._stored(part, (max(self._tile // 4, self._block * self.sizes["S"]),))[: count * m * n]
        return place.reshape(count, n, m).swapaxes(1, 2) if transposed else place.reshape(count, m, n)

    def _stored(self, key: object, shape: tuple[int, ...]) -> Array:
        if key not in self._arrays:
            # Written once, so that no call meets a page for the first time.
            self._arrays[key] = np.full(shape, 0.01, np.float32)
        return self._arrays[key]


#: What transposes the last two dims, of a matrix and of a stack [B, N_H] of them.
_SWAPS = ((1, 0), (0, 1, 3, 2))


def _products(node: Node) -> Iterator[tuple[Operand, Operand, Operand]]:
    """What a node multiplies, as left, right and result."""
    rule = node.inference.rule
    of = {o.name: Operand(value) for o, value in zip(rule.inputs, node.inputs, strict=True)}
    of |= {o.name: Operand(value) for o, value in zip(rule.outputs, node.outputs, strict=True)}
    if node.operator.key == "matmul":
        yield of["X"], of["W"], of["Y"]
    if node.operator.key == "dMatmul" and "dX" in of:
        yield of["dY"], of["W"].swapped, of["dX"]
    if node.operator.key == "dMatmul" and "dW" in of:
        yield of["X"].swapped, of["dY"], of["dW"]


def _split(count: int, parts: int) -> list[slice]:
    """`count` rows in `parts` as equal as can be."""
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _length(part: slice) -> int:
    return int(part.stop - part.start)
