"""Products of strided views by cuBLAS: from strides to ops, leading dimensions and batch strides, without copies.

A product has four kinds of axes, each with how far it leads in the operands X and W and in the result Y (in elements;
0 where an array lacks it):

    rows m        of X and Y          contracted k   of X and W
    columns n     of W and Y          batch b        of Y, and of X or W or both

Axes of one kind that lie one behind the other in all arrays are merged: X [B, S, D] • W [D, F] has B·S rows. cuBLAS
takes one of each kind. What is left of the batch, the heads and sequences of attention on views of [B, S, D], and of
the contracted axes is gone through here, call by call, the largest batch axis being left to cuBLAS.

cuBLAS counts column by column. A matrix whose rows lie one after the other is to it the transpose, so a Y of such
rows is asked for as Yᵀ = Wᵀ • Xᵀ, and one of such columns as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.cublas import PLAIN, TRANSPOSED, Kind, Matrix, Shape, address, handle
from graphir.backends.effects import writes

#: cuBLAS counts in 32 bits.
_LARGEST = (1 << 31) - 1


class Axis(NamedTuple):
    """An axis: its size, and its stride in X, W and Y."""

    size: int
    x: int
    w: int
    y: int


@dataclass(frozen=True)
class Product:
    """A product's axes, merged. `over` are the contracted axes beside k: Y is a sum over them."""

    rows: Axis
    columns: Axis
    contracted: Axis
    batch: tuple[Axis, ...]
    over: tuple[Axis, ...]


class Layout(NamedTuple):
    """A matrix as cuBLAS takes it."""

    op: int
    ld: int


@dataclass(frozen=True)
class Gemm:
    """A product as cuBLAS takes it. `swapped`: Yᵀ is asked for, W is its first factor."""

    product: Product
    first: Layout
    second: Layout
    result: Layout
    swapped: bool


# -- from arrays to axes ----------------------------------------------------------------------------------


def batched(X: Array, W: Array, Y: Array) -> Product:
    """The axes of Y [*b, *g, m, n] = X [*b, *g, m, k] • W [*b, k, n]: a W shared by all has no b, one for each no g."""
    x, w, y = map(steps, (X, W, Y))
    own = W.ndim - 2
    batch = [Axis(Y.shape[i], x[i], w[i], y[i]) for i in range(own)]
    *over, rows = merged([Axis(Y.shape[i], x[i], 0, y[i]) for i in range(own, Y.ndim - 1)])
    columns, contracted = Axis(Y.shape[-1], 0, w[-1], y[-1]), Axis(X.shape[-1], x[-1], w[-2], 0)
    return Product(rows, columns, contracted, tuple(merged([*batch, *over])), ())


def summed(X: Array, dY: Array, dW: Array) -> Product:
    """The axes of dW [*b, k, n] = Xᵀ • dY, summed over all of *g, of X [*b, *g, m, k] and dY [*b, *g, m, n]."""
    x, y, w = map(steps, (X, dY, dW))
    own = dW.ndim - 2
    batch = [Axis(X.shape[i], x[i], y[i], w[i]) for i in range(own)]
    *over, contracted = merged([Axis(X.shape[i], x[i], y[i], 0) for i in range(own, X.ndim - 1)])
    rows, columns = Axis(X.shape[-1], x[-1], 0, w[-2]), Axis(dY.shape[-1], 0, y[-1], w[-1])
    return Product(rows, columns, contracted, tuple(merged(batch)), tuple(over))


def steps(array: Array) -> list[int]:
    """An array's strides in elements."""
    return [stride // array.itemsize for stride in array.strides]


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """The axes, major first, with those made one that lie one behind the other in all arrays."""
    result: list[Axis] = []
    for axis in axes:
        if result and axis.size == 1:
            continue
        if result and result[-1].size == 1:
            result[-1] = axis
        elif result and result[-1][1:] == tuple(axis.size * step for step in axis[1:]):
            result[-1] = Axis(result[-1].size * axis.size, *axis[1:])
        else:
            result.append(axis)
    return result


# -- from axes to layouts ---------------------------------------------------------------------------------


def as_gemm(product: Product) -> Gemm | None:
    """How cuBLAS takes a product; None where it does not, because neither rows nor columns lie without gaps.

    None, too, where elements of Y would be the same memory, or what cuBLAS counts in 32 bits is more.
    """
    m, n, k = product.rows, product.columns, product.contracted
    axes = (m, n, k, *product.batch)
    if any(axis.size > 1 and axis.y == 0 for axis in product.batch) or max(map(max, axes)) > _LARGEST:
        return None
    for swapped in (True, False):
        if swapped:
            first, second = _lay(n.size, n.w, k.size, k.w), _lay(k.size, k.x, m.size, m.x)
            result = _lay(n.size, n.y, m.size, m.y)
        else:
            first, second = _lay(m.size, m.x, k.size, k.x), _lay(k.size, k.w, n.size, n.w)
            result = _lay(m.size, m.y, n.size, n.y)
        if first is not None and second is not None and result is not None and result.op == PLAIN:
            return Gemm(product, first, second, result, swapped)
    return None


def _lay(height: int, down: int, width: int, across: int) -> Layout | None:
    """A matrix [height, width] with a step `down` a column and one `across` to the next."""
    for op, long, step, wide, ld in ((PLAIN, height, down, width, across), (TRANSPOSED, width, across, height, down)):
        # Of a single column, ld is not looked at but for being large enough.
        ld = max(long, 1) if wide <= 1 else ld
        if (step == 1 or long <= 1) and ld >= max(long, 1):
            return Layout(op, ld)
    return None


def find_gemm(product: Product, kind: Kind) -> Gemm | None:
    """How cuBLAS carries out a product of this kind; None where it cannot, or its sums would be rounded in between."""
    return None if product.over and kind.rounds else as_gemm(product)


# -- carrying out -----------------------------------------------------------------------------------------


@writes("Y")
def carry_out(gemm: Gemm, kind: Kind, X: Array, W: Array, Y: Array) -> None:
    """Enqueues the product on the current stream; Y is overwritten. No axis is empty."""
    product = gemm.product
    batch = sorted(product.batch, key=lambda axis: axis.size)
    largest = batch.pop() if batch else Axis(1, 0, 0, 0)
    blas, size = handle(), X.itemsize
    m, n = (product.columns, product.rows) if gemm.swapped else (product.rows, product.columns)
    shape = Shape(m.size, n.size, product.contracted.size, largest.size)
    x, w, y = address(X), address(W), address(Y)
    layouts = (gemm.second, gemm.first) if gemm.swapped else (gemm.first, gemm.second)
    of_x, of_w = Matrix(x, layouts[0].ld, largest.x, layouts[0].op), Matrix(w, layouts[1].ld, largest.w, layouts[1].op)
    of_y = Matrix(y, gemm.result.ld, largest.y)
    for at in _places(batch):
        for term, over in enumerate(_places(product.over)):
            first = replace(of_x, address=x + (at.x + over.x) * size)
            second = replace(of_w, address=w + (at.w + over.w) * size)
            if gemm.swapped:
                first, second = second, first
            result = replace(of_y, address=y + at.y * Y.itemsize)
            blas.multiply(kind, shape, first, second, result, add=term > 0)


def _places(axes: Sequence[Axis]) -> Iterator[Axis]:
    """How far each combination of indices of `axes` lies from the first, in X, W and Y."""
    for indices in itertools.product(*(range(axis.size) for axis in axes)):
        steps = [sum(i * axis[array] for i, axis in zip(indices, axes, strict=True)) for array in (1, 2, 3)]
        yield Axis(1, *steps)
