"""Rules of reductions that no fused kernel covers: Σ over any axes, and ARG; a number of elements; zeros.

Rows and what they are summed over may each lie along two axes of any strides.
"""

from __future__ import annotations

from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.engine import rules
from graphir.backends.cupy.rules.shared import DeviceCalls, kernel, launch, positions, steps, sum_dtype
from graphir.operators.decode import argmax
from graphir.operators.elementwise import zeros
from graphir.operators.loss import count_elements
from graphir.operators.shape import sum_op

_THREADS = 256


@rules.emits(sum_op)
def _sum(call: DeviceCalls, X: Array, Y: Array, *, axes: tuple[int, ...], rank: int) -> bool:
    if not axes:
        call(call.engine.copy, Y, X)
        return True
    strides, kept = steps(X), [i for i in range(X.ndim) if i not in axes]
    rows = positions(Y.shape, [strides[i] for i in kept], steps(Y))
    # In the order in which they lie, for more of them to be one.
    axes = tuple(sorted(axes, key=lambda i: -abs(strides[i])))
    over = [strides[i] for i in axes]
    columns = positions([X.shape[i] for i in axes], over, over)
    if rows is None or columns is None:
        return False
    if Y.size:
        function = kernel(call, "reduce.cu", 1, Value=X.dtype.name, Sum=sum_dtype(X.dtype))
        (outer, inner), (major, minor) = rows, columns
        length = major.size * minor.size
        lying = (inner.size, outer.x, inner.x, outer.y, inner.y, max(minor.size, 1), major.x, minor.x)
        launch(call, function, Y.size, _THREADS, X, Y, Y.size, length, *lying)
    return True


@rules.emits(argmax)
def _argmax(call: DeviceCalls, P: Array, ids: Array) -> bool:
    rows = positions(ids.shape, steps(P)[:-1], steps(ids))
    if rows is None or P.shape[-1] == 0:
        return False
    if ids.size:
        types = {"Value": P.dtype.name, "Sum": sum_dtype(P.dtype), "Id": ids.dtype.name}
        outer, inner = rows
        lying = (inner.size, outer.x, inner.x, outer.y, inner.y, steps(P)[-1])
        launch(call, kernel(call, "argmax.cu", 1, **types), ids.size, _THREADS, P, ids, ids.size, P.shape[-1], *lying)
    return True


@rules.emits(count_elements)
def _count_elements(call: DeviceCalls, X: Array, n: Array) -> None:
    call(call.engine.copy, n, X.size)


@rules.emits(zeros, inplace={"Y": "X"})
def _zeros(call: DeviceCalls, X: Array, Y: Array) -> None:
    call(call.engine.copy, Y, 0)
