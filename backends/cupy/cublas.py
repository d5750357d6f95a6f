"""cuBLAS by its C interface: C [m, n] = α op(A) [m, k] • op(B) [k, n] + β C, each matrix column by column.

Element (i, j) of a matrix lies at i + j · ld, in elements; op is the matrix itself or its transpose. CuPy's own binding
refuses every call while a stream is captured (`setStream` raises NotImplementedError, up to CuPy 14), and captured
is what a step's products have to be. So the library that CuPy has loaded is called directly. cuBLAS itself can be
captured: what it is given on the host, α and β, is copied at the call, and its workspace is one that it is given once.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphir.backends.compiled.emission import Array
from graphir.backends.device import load_cupy
from graphir.errors import DeviceError, MissingDependencyError
from graphir.extras import install

#: cublasOperation_t.
PLAIN, TRANSPOSED = 0, 1
#: cudaDataType_t.
_DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
#: cublasComputeType_t: CUBLAS_COMPUTE_32F, _32F_FAST_TF32 and _64F.
_FLOAT32, _TF32, _FLOAT64 = 68, 77, 70
#: What may be multiplied into what with sums in float32 (the table of cublasGemmEx).
_NARROW = {("float16", "float16"), ("float16", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")}
#: CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: parts of a sum that are added up later stay in float32, too.
_MATH = 16
_ALGORITHM = -1
#: NVIDIA's advice for Hopper; 4 MiB would do before.
_WORKSPACE = 32 << 20


@dataclass(frozen=True)
class Kind:
    """What is multiplied: the dtypes of operands and result, and how sums are formed."""

    operand: int
    result: int
    compute: int

    @property
    def rounds(self) -> bool:
        """Whether a result has fewer digits than the sums from which it is made."""
        return self.compute != _FLOAT64 and self.result != _DTYPES["float32"]

    @property
    def scalars(self) -> tuple[int, int]:
        """The addresses of 0 and 1, as α and β are read."""
        return _DOUBLES if self.compute == _FLOAT64 else _SINGLES


@dataclass(frozen=True)
class Shape:
    """The numbers of a product; strides, in elements, lead from one of `count` matrices to the next."""

    m: int
    n: int
    k: int
    count: int = 1


@dataclass(frozen=True)
class Matrix:
    """Where an operand lies: its address, how far its columns and its matrices are apart, and its op."""

    address: int
    ld: int
    stride: int = 0
    op: int = PLAIN


def find_kind(operand: str, other: str, result: str, tf32: bool) -> Kind | None:
    """The kind of products of these dtypes; None where cuBLAS has none. With `tf32`, float32 factors lose 13 bits."""
    if operand != other or operand not in _DTYPES or result not in _DTYPES:
        return None
    if operand == result == "float64":
        compute = _FLOAT64
    elif operand == result == "float32":
        compute = _TF32 if tf32 else _FLOAT32
    elif (operand, result) in _NARROW:
        compute = _FLOAT32
    else:
        return None
    return Kind(_DTYPES[operand], _DTYPES[result], compute)


def address(array: Any) -> int:
    """Where the first element of a device array lies."""
    return int(array.data.ptr)


class Handle:
    """cuBLAS on one device, by a handle with a workspace of its own, for one stream at a time.

    Errors: DeviceError with cuBLAS's own words, and what it was asked for.
    """

    def __init__(self, library: Any, workspace: Array) -> None:
        self._library, self._workspace = library, workspace
        self._stream: int | None = None
        handle = ctypes.c_void_p()
        self._check(library.cublasCreate_v2(ctypes.byref(handle)), "make a handle")
        self._handle = handle.value
        self._check(library.cublasSetMathMode(self._handle, _MATH), "set how sums are formed")

    def on(self, stream: int) -> Handle:
        """The handle, whose calls go to `stream`, given by its address, from now on."""
        if stream != self._stream:
            # Another stream takes the workspace away.
            self._check(self._library.cublasSetStream_v2(self._handle, stream), "change to another stream")
            size = self._workspace.nbytes
            self._check(
                self._library.cublasSetWorkspace_v2(self._handle, address(self._workspace), size), "take a workspace"
            )
            self._stream = stream
        return self

    def multiply(self, kind: Kind, shape: Shape, A: Matrix, B: Matrix, C: Matrix, add: bool = False) -> None:
        """C = op(A) • op(B), or C += with `add`, of each of `shape.count` matrices."""
        zero, one = kind.scalars
        beta = one if add else zero
        head = (self._handle, A.op, B.op, shape.m, shape.n, shape.k, one)
        tail = (kind.compute, _ALGORITHM)
        if shape.count == 1:
            status = self._library.cublasGemmEx(
                *head, A.address, kind.operand, A.ld, B.address, kind.operand, B.ld, beta,
                C.address, kind.result, C.ld, *tail,
            )  # fmt: skip
        else:
            status = self._library.cublasGemmStridedBatchedEx(
                *head, A.address, kind.operand, A.ld, A.stride, B.address, kind.operand, B.ld, B.stride, beta,
                C.address, kind.result, C.ld, C.stride, shape.count, *tail,
            )  # fmt: skip
        if status:
            self._check(status, f"multiply {shape}, {kind}, from {A} and {B} into {C}")

    def _check(self, status: int, tried: str) -> None:
        if status:
            name = self._library.cublasGetStatusName(status)
            raise DeviceError(f"cuBLAS could not {tried}: {name.decode()}")


#: Of each device the handle of each stream that there is, and those whose streams are gone. Streams that shared a
#: workspace would spoil each other's sums, and graphs write to the workspace that they were captured with.
_HANDLES: dict[int, MutableMapping[Any, Handle]] = {}
_IDLE: dict[int, list[Handle]] = {}


def handle() -> Handle:
    """The handle of CuPy's current stream, made when it is first asked for: never while the stream is captured."""
    cupy = load_cupy()
    device, stream = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream()
    handles = _HANDLES.setdefault(device, weakref.WeakKeyDictionary())
    found = handles.get(stream)
    if found is None:
        idle = _IDLE.setdefault(device, [])
        try:
            found = idle.pop()
        except IndexError:
            found = Handle(load_library(), cupy.empty(_WORKSPACE, "uint8"))
        handles[stream] = found
        weakref.finalize(stream, idle.append, found).atexit = False
    return found.on(stream.ptr)


def forget_handles() -> None:
    """Makes all handles anew when they are next asked for."""
    _HANDLES.clear()
    _IDLE.clear()


@lru_cache(maxsize=1)
def load_library() -> Any:
    """The library that CuPy has loaded. Errors: MissingDependencyError where there is none."""
    version = load_cupy().cuda.runtime.runtimeGetVersion() // 1000
    name = f"cublas64_{version}.dll" if os.name == "nt" else f"libcublas.so.{version}"
    try:
        # Asked for as an attribute, CuPy looks wherever it may lie; once it is loaded, its name alone finds it.
        from cupy_backends.cuda.libs import cublas  # noqa: F401

        library = ctypes.CDLL(name)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"products on the GPU need cuBLAS {version}, which CuPy does not find ({str(error).splitlines()[0]}): "
            f"{install(f'cuda{version}')}"
        ) from error
    for name, types in _FUNCTIONS.items():
        getattr(library, name).argtypes = types
    library.cublasGetStatusName.restype = ctypes.c_char_p
    return library


_I, _L, _P = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_HEAD = [_P, _I, _I, _I, _I, _I, _P]
_FUNCTIONS: dict[str, list[Any]] = {
    "cublasCreate_v2": [ctypes.POINTER(_P)],
    "cublasSetMathMode": [_P, _I],
    "cublasSetStream_v2": [_P, _P],
    "cublasSetWorkspace_v2": [_P, _P, ctypes.c_size_t],
    "cublasGetStatusName": [_I],
    "cublasGemmEx": [*_HEAD, _P, _I, _I, _P, _I, _I, _P, _P, _I, _I, _I, _I],
    "cublasGemmStridedBatchedEx": [*_HEAD, _P, _I, _I, _L, _P, _I, _I, _L, _P, _P, _I, _I, _L, _I, _I, _I],
}

# α and β live as long as the module: cuBLAS is given their addresses.
_NUMBERS = (ctypes.c_float(0), ctypes.c_float(1), ctypes.c_double(0), ctypes.c_double(1))
_SINGLES = (ctypes.addressof(_NUMBERS[0]), ctypes.addressof(_NUMBERS[1]))
_DOUBLES = (ctypes.addressof(_NUMBERS[2]), ctypes.addressof(_NUMBERS[3]))
