"""Products of few rows by a matrix of bfloat16, as decoding has them: widened in registers, as it is read.

Reading the matrix is all that such a product costs, and half of what it would cost in float32. BLAS has no such
product; of more rows its own is worth a copy of the matrix in float32, a tile at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.compiled.task import Task
from graphir.backends.effects import declare
from graphir.backends.numpy.fast.build import build
from graphir.backends.rows.plan import RunTile
from graphir.backends.rows.runs import FusedRun
from graphir.ir.graph import Node
from graphir.ir.traits import PRODUCT, Computes

#: Of more rows than so many BLAS is faster.
MOST_ROWS = 4

# Of each row of X [rows, k] the inner products with the rows of W [n, k], or the sum of the rows of W [k, n] by it.
_HEAD = """@kernel(IN(types.int64), IN(types.float32), IN(types.uint16), OUT(types.float32))
def run(g, x, w, y):
    rows, n, k, along_x, along_w, along_y = N(g[0]), N(g[1]), N(g[2]), N(g[3]), N(g[4]), N(g[5])
"""
_INNER = """    for i in range(n):
        p = i * along_w
        for r in range(rows):
            q = r * along_x
            t = T(0)
            for j in range(k):
                t = plus(t, x[q + j] * np.int32(I(w[p + j]) << I(16)).view(np.float32))
            y[r * along_y + i] = t
"""
_OUTER = """    for r in range(rows):
        z = r * along_y
        for i in range(n):
            y[z + i] = T(0)
        for j in range(k):
            p, t = j * along_w, x[r * along_x + j]
            for i in range(n):
                y[z + i] += t * np.int32(I(w[p + i]) << I(16)).view(np.float32)
"""


@dataclass(frozen=True)
class WidenedProduct(FusedRun):
    """The cast of a matrix W [k, n] and the product X • W that alone reads it, with the views between the two."""

    views: tuple[Node, ...] = ()


def find_product(task: Task) -> Mapping[int, WidenedProduct]:
    """The task as a product of few rows by a widened matrix, by the position of its first node, if it is one."""
    product = task.product
    if product is None or len(task.widened) != 1 or product.operator.trait(Computes) != Computes(PRODUCT):
        return {}
    (W,) = task.widened
    X, read = product.inputs
    cast, views = task.producers[W], task.views_to(read)
    rows = math.prod(task.shapes[product.outputs[0]][:-1])
    fits = task.root[read] is W and len(task.shapes[read]) == 2 and all(len(task.shapes[v]) == 2 for v in (W, read))
    if not fits or cast.inputs[0].dtype != "bfloat16" or W.dtype != "float32" or rows > MOST_ROWS:
        return {}
    if task.root[X] is W or X.dtype != "float32" or product.outputs[0].dtype != "float32":
        return {}
    stop = task.nodes.index(product) + 1
    inputs = X, cast.inputs[0]
    run = WidenedProduct(task, (cast, product), (), (), inputs, product.outputs, "float32", stop, views)
    return {task.nodes.index(cast): run}


def write_product(call: Calls, run: WidenedProduct, tile: RunTile) -> bool:
    """Records the call that computes the product on a tile; False where its arrays lie in no way for it."""
    X, W, Y = (tile.arrays[value] for value in (*run.inputs, *run.outputs))
    for node in run.views:
        W = node.operator.kernel(np, W, **tile.keywords[node])
    x, y = _rows(X), _rows(Y)
    if x is None or y is None or not W.size or not np.may_share_memory(W, tile.arrays[run.inputs[1]]):
        return False
    k, n = W.shape
    one = W.itemsize
    if W.strides[0] == one or k == 1:
        text, along = _INNER, W.strides[1] // one
    elif W.strides[1] == one or n == 1:
        text, along = _OUTER, W.strides[0] // one
    else:
        return False
    numbers = np.array([len(x), n, k, x.strides[0] // 4, along, y.strides[0] // 4], np.int64)
    call(_compiled(text), numbers, _stretch(x), _stretch(W).view(np.uint16), _stretch(y))
    return True


def _rows(array: Array) -> Array | None:
    """An array [*b, d] as a matrix whose rows are contiguous, where it can be seen so."""
    rows: Array = array.reshape(-1, array.shape[-1])
    seen = np.may_share_memory(rows, array) and (rows.strides[1] == rows.itemsize or rows.shape[1] == 1)
    return rows if seen and array.size else None


def _stretch(matrix: Array) -> Array:
    """From the first element to the last, what lies between included."""
    reach = sum((size - 1) * stride for size, stride in zip(matrix.shape, matrix.strides, strict=True))
    return np.lib.stride_tricks.as_strided(matrix, (reach // matrix.itemsize + 1,), (matrix.itemsize,))


def _compiled(text: str) -> Any:
    function = build("float32", _HEAD + text)
    declare(function, [3], spans=True)
    return function
