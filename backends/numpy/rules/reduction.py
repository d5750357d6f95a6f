"""Rules of sums and means: Σ, Σ², a number of elements, the mean and division by a count, with their d-operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls, flat
from graphir.backends.numpy.engine import maximum, rules
from graphir.backends.numpy.rules.shared import column_sums, number, row_dots, row_sums, unbroadcast
from graphir.operators.loss import average, count_elements, d_average, d_divide, divide_by_count
from graphir.operators.shape import sum_op
from graphir.operators.update import square_sum


@rules.emits(sum_op)
def _sum(call: Calls, X: Array, Y: Array, *, axes: tuple[int, ...], rank: int) -> None:
    kept = rank - len(axes)
    leading, trailing = axes == tuple(range(rank - kept)), axes == tuple(range(kept, rank))
    vector = flat(Y)
    if not axes:
        call(np.copyto, Y, X)
    elif X.size and X.flags.c_contiguous and vector is not None and leading:
        column_sums(call, X.reshape(-1, Y.size), vector)
    elif X.size and X.flags.c_contiguous and trailing:
        row_sums(call, X.reshape(*Y.shape, -1), Y)
    else:
        call(np.add.reduce, X, axes, None, Y)


@rules.emits(square_sum)
def _square_sum(call: Calls, X: Array, n: Array) -> None:
    vector = flat(X)
    if vector is not None:
        call(np.matmul, vector, vector, n)
    else:
        along = call.scratch(X.shape[:-1], X.dtype)
        call(row_dots, X, X, along)
        call(np.add.reduce, along, None, None, n)


@rules.emits(count_elements)
def _count_elements(call: Calls, X: Array, n: Array) -> None:
    call(np.copyto, n, number(X.size, n))


@rules.emits(average)
def _average(call: Calls, X: Array, Y: Array) -> Any:
    if X.size == 0:
        return False
    call(np.add.reduce, X, 0, None, Y)
    call(np.divide, Y, number(X.size, Y), Y)
    return None


@rules.emits(d_average)
def _d_average(call: Calls, dY: Array, dX: Array, *, r: int) -> None:
    call(np.divide, dY, number(r, dY), dX)


@rules.emits(divide_by_count, inplace={"Y": "X"})
def _divide_by_count(call: Calls, X: Array, n: Array, Y: Array) -> None:
    _record_quotient(call, X, n, Y)


@rules.emits(d_divide, inplace={"dX": "dY"})
def _d_divide(call: Calls, n: Array, dY: Array, dX: Array) -> None:
    _record_quotient(call, dY, n, dX)


def _record_quotient(call: Calls, X: Array, n: Array, Y: Array) -> None:
    """Records Y = X / max(n, 1); one count widened to all elements is looked at once."""
    count = unbroadcast(n)
    positive = call.scratch(count.shape, count.dtype)
    call(maximum, count, number(1, count), positive)
    call(np.divide, X, positive, Y)
