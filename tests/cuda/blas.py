"""A stand-in for cuBLAS: its C interface on host memory, by NumPy.

It takes what the library takes, addresses, leading dimensions and strides, and reads and writes just the elements that
cuBLAS's definition names: element (i, j) of a matrix at address + (i + j · ld) · itemsize. What cuBLAS refuses, it
refuses with the same status. Work is handed to `enqueue`, the current stream, at which point α and β have been read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

SUCCESS, NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 0, 1, 7, 15
_NAMES = {0: "SUCCESS", 1: "NOT_INITIALIZED", 7: "INVALID_VALUE", 15: "NOT_SUPPORTED"}
_DTYPES = {0: np.dtype("float32"), 1: np.dtype("float64"), 2: np.dtype("float16"), 14: np.dtype(ml_dtypes.bfloat16)}
#: Of each compute type, the dtype of its sums, and the pairs of dtypes (operands, result) that it is for.
_COMPUTE = {
    68: (np.dtype("float32"), {(0, 0), (2, 2), (2, 0), (14, 14), (14, 0)}),
    77: (np.dtype("float32"), {(0, 0)}),
    70: (np.dtype("float64"), {(1, 1)}),
}
_TF32 = 77


def _run(work: Callable[[], None]) -> None:
    work()


class Library:
    """What `graphir.backends.cupy.cublas.load_library` returns. `calls` are the names of the products, in order."""

    def __init__(self, enqueue: Callable[[Callable[[], None]], None] = _run) -> None:
        self.enqueue = enqueue
        self.calls: list[str] = []
        self._stream: int | None = None
        self._workspace = 0

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = 1
        return SUCCESS

    def cublasSetMathMode(self, handle: int, mode: int) -> int:
        return SUCCESS if handle == 1 and mode in (0, 16) else INVALID_VALUE

    def cublasSetStream_v2(self, handle: int, stream: int) -> int:
        self._stream, self._workspace = stream, 0
        return SUCCESS if handle == 1 else NOT_INITIALIZED

    def cublasSetWorkspace_v2(self, handle: int, workspace: int, size: int) -> int:
        if handle != 1 or not workspace or workspace % 256 or not size:
            return INVALID_VALUE
        self._workspace = workspace
        return SUCCESS

    def cublasGetStatusName(self, status: int) -> bytes:
        return f"CUBLAS_STATUS_{_NAMES[status]}".encode()

    def cublasGemmEx(
        self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int, type_a: int, lda: int,
        b: int, type_b: int, ldb: int, beta: int, c: int, type_c: int, ldc: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        self.calls.append("cublasGemmEx")
        return self._multiply(
            handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0, 1,
            compute, algorithm,
        )  # fmt: skip

    def cublasGemmStridedBatchedEx(self, *arguments: int) -> int:
        self.calls.append("cublasGemmStridedBatchedEx")
        return self._multiply(*arguments)

    def _multiply(
        self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int, type_a: int, lda: int,
        stride_a: int, b: int, type_b: int, ldb: int, stride_b: int, beta: int, c: int, type_c: int, ldc: int,
        stride_c: int, count: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        # Without a workspace of its own cuBLAS would allocate one, which a captured call must not.
        if handle != 1 or self._stream is None or not self._workspace:
            return NOT_INITIALIZED
        shape_a, shape_b = ((m, k) if op_a == 0 else (k, m)), ((k, n) if op_b == 0 else (n, k))
        lds = (lda, ldb, ldc), (shape_a[0], shape_b[0], m)
        if op_a not in (0, 1) or op_b not in (0, 1) or min(m, n, k, count) < 0 or algorithm != -1:
            return INVALID_VALUE
        if any(ld < max(1, rows) for ld, rows in zip(*lds, strict=True)):
            return INVALID_VALUE
        if compute not in _COMPUTE or type_a != type_b or (type_a, type_c) not in _COMPUTE[compute][1]:
            return NOT_SUPPORTED
        dtype = _COMPUTE[compute][0]
        scalar = ctypes.c_double if dtype == np.float64 else ctypes.c_float
        factor, rest = (scalar.from_address(each).value for each in (alpha, beta))

        def work() -> None:
            for i in range(count):
                A, B = _matrix(a, type_a, shape_a, lda, i * stride_a), _matrix(b, type_b, shape_b, ldb, i * stride_b)
                C = _matrix(c, type_c, (m, n), ldc, i * stride_c)
                first, second = (_rounded(each.astype(dtype), compute) for each in (A, B))
                made = factor * ((first.T if op_a else first) @ (second.T if op_b else second))
                # With β = 0 what lies in C is not read, and may be NaN.
                C[...] = made if rest == 0 else made + rest * C.astype(dtype)

        self.enqueue(work)
        return SUCCESS


def _matrix(address: int, type_: int, shape: tuple[int, int], ld: int, offset: int) -> NDArray[Any]:
    """[rows, columns], column by column, in the memory that begins `offset` elements behind `address`."""
    dtype, (rows, columns) = _DTYPES[type_], shape
    if 0 in shape:
        return np.empty(shape, dtype)
    size = ((columns - 1) * ld + rows) * dtype.itemsize
    memory = (ctypes.c_char * size).from_address(address + offset * dtype.itemsize)
    return np.ndarray(shape, dtype, memory, 0, (dtype.itemsize, ld * dtype.itemsize))


def _rounded(matrix: NDArray[Any], compute: int) -> NDArray[Any]:
    """The factors as tensor cores read them: of float32 the 10 leading bits of the fraction, for TF32."""
    if compute != _TF32:
        return matrix
    bits = np.ascontiguousarray(matrix).view(np.uint32)
    half = np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFFE000)).view(np.float32)
