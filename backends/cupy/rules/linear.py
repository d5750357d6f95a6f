"""The rules of • and dMatmul: cuBLAS on views; T is a flag of cuBLAS, never a copy."""

from __future__ import annotations

from collections.abc import Callable

from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.cublas import find_kind, handle
from graphir.backends.cupy.engine import rules
from graphir.backends.cupy.matmul import Product, batched, carry_out, find_gemm, summed
from graphir.backends.cupy.rules.shared import DeviceCalls
from graphir.operators.linear import d_matmul, matmul


@rules.emits(matmul)
def _matmul(call: DeviceCalls, X: Array, W: Array, Y: Array, *, dtype: str) -> bool:
    """One product where all rows lie side by side, else one for each matrix."""
    return _record(call, batched, X, W, Y)


@rules.emits(d_matmul)
def _d_matmul(
    call: DeviceCalls,
    X: Array | None,
    W: Array | None,
    dY: Array,
    dX: Array | None,
    dW: Array | None,
    *,
    shared: bool,
    grouped: bool,
    dtype: str,
) -> bool:
    """dX = dY • Wᵀ, dW = Xᵀ • dY; of a shared W the rows of all *b in one product, of a group's W those of all g."""
    done = True
    if dX is not None:
        assert W is not None
        done = _record(call, batched, dY, W.swapaxes(-1, -2), dX)
    if dW is not None and done:
        assert X is not None
        if shared or grouped:
            done = _record(call, summed, X, dY, dW)
        else:
            done = _record(call, batched, X.swapaxes(-1, -2), dY, dW)
    return done


def _record(call: DeviceCalls, axes: Callable[[Array, Array, Array], Product], X: Array, W: Array, Y: Array) -> bool:
    """Records the product of X and W into Y; False if cuBLAS has none of these dtypes."""
    kind = find_kind(X.dtype.name, W.dtype.name, Y.dtype.name, call.engine.tf32)
    if kind is None:
        return False
    if X.size == 0 or W.size == 0 or Y.size == 0:
        call(call.engine.copy, Y, 0)
        return True
    # The handle, too, is made before a stream is captured.
    handle()
    gemm = find_gemm(axes(X, W, Y), kind)
    if gemm is not None:
        call(carry_out, gemm, kind, X, W, Y)
        return True
    # What repeats itself, or has gaps in both directions, is laid out anew.
    copies = [call.scratch(each.shape, each.dtype) for each in (X, W, Y)]
    gemm = find_gemm(axes(copies[0], copies[1], copies[2]), kind)
    assert gemm is not None, "a product of contiguous arrays is a GEMM of cuBLAS"
    for copy, operand in zip(copies, (X, W), strict=False):
        call(call.engine.copy, copy, operand)
    call(carry_out, gemm, kind, *copies)
    call(call.engine.copy, Y, copies[2])
    return True
