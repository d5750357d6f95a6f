"""Products by cuBLAS, over a stand-in that reads and writes just what cuBLAS's definition names, against float64.

What is tested is the way from strides to ops, leading dimensions and batch strides: every memory is filled with NaN
around what belongs to a view, and held to be untouched there.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graphir.backends.cupy import cublas
from graphir.backends.cupy.cublas import Matrix, Shape, find_kind, load_library
from graphir.backends.cupy.matmul import Product, as_gemm, batched, carry_out, find_gemm, summed
from graphir.errors import DeviceError
from tests.cuda.blas import Library
from tests.cuda.runtime import Stream

_many = settings(max_examples=150, deadline=None)
#: The largest error of one product, as a share of the sum of the sizes of what is added up.
_ERRORS = {"float64": 1e-14, "float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2, "tf32": 1e-3}


class Host(np.ndarray[Any, Any]):
    """An array of the host with a device array's `data.ptr`."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])


def _empty(size: int, dtype: str) -> Host:
    """As the device's memory, it begins at a multiple of 256 bytes."""
    raw = np.empty(size + 256, dtype)
    start = -raw.ctypes.data % 256
    return raw[start : start + size].view(Host)


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    """cuBLAS as CuPy would have loaded it, for the one device that there is, on its one stream."""
    library = Library()
    runtime = types.SimpleNamespace(getDevice=lambda: 0)
    stream = Stream()
    cuda = types.SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cublas, "load_cupy", lambda: types.SimpleNamespace(cuda=cuda, empty=_empty))
        patch.setattr(cublas, "load_library", lambda: library)
        cublas.forget_handles()
        yield library
    cublas.forget_handles()


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class Views:
    """Draws arrays that lie in memory in all ways that views come in: dims in any order, with gaps."""

    def __init__(self, seed: int, dtype: str) -> None:
        self.rng, self.dtype = np.random.default_rng(seed), _dtype(dtype)
        self.wholes: list[tuple[NDArray[Any], Host]] = []

    def draw(self, *shape: int, filled: bool = True) -> Host:
        """An array of this shape: numbers, or NaN, in memory that is NaN everywhere else."""
        order = self.rng.permutation(len(shape))
        # The dim that lies innermost must have its elements side by side; a gap may follow every other.
        gaps = [int(self.rng.integers(0, 3)) if i < len(shape) - 1 else 0 for i in range(len(shape))]
        if len(shape) > 2 and order[-1] < len(shape) - 2:
            order = np.roll(order, int(np.argmax(order == len(shape) - 1)) - len(shape) + 1)
        stored = [shape[axis] for axis in order]
        memory = np.full([size + gap for size, gap in zip(stored, [0, *gaps[:-1]], strict=True)], np.nan, self.dtype)
        part = memory[tuple(slice(0, size) for size in stored)].transpose(np.argsort(order))
        if filled:
            part[...] = self.rng.standard_normal(shape).astype(self.dtype)
        view = part.view(Host)
        self.wholes.append((memory, view))
        return view


def _multiply(
    axes: Callable[[Any, Any, Any], Product], X: Host, W: Host, Y: Host, tf32: bool = False
) -> tuple[bool, float]:
    """Whether cuBLAS takes it, and then the largest error as a share of the sum of the sizes of the terms."""
    kind = find_kind(X.dtype.name, W.dtype.name, Y.dtype.name, tf32)
    assert kind is not None
    gemm = find_gemm(axes(X, W, Y), kind)
    if gemm is None:
        return False, 0
    carry_out(gemm, kind, X, W, Y)
    first, second, made = (np.asarray(each, np.float64) for each in (X, W, Y))
    pattern = "...mk,...kn->...mn"
    if axes is summed:
        first, second = first.reshape(-1, first.shape[-1]), second.reshape(-1, second.shape[-1])
        pattern = "mk,mn->kn"
    exact, sizes = np.einsum(pattern, first, second), np.einsum(pattern, abs(first), abs(second))
    # Below the least normal number, numbers of Y's dtype are no nearer to each other.
    least = float(ml_dtypes.finfo(Y.dtype).tiny)
    return True, float((abs(made - exact) / np.maximum(sizes, least)).max(initial=0))


def _alone(array: Host, memory: NDArray[Any]) -> bool:
    """Whether all of `memory` outside `array` is NaN still."""
    rest = memory.copy()
    at = (array.__array_interface__["data"][0] - memory.__array_interface__["data"][0]) // array.itemsize
    flat = rest.reshape(-1)
    inside = np.lib.stride_tricks.as_strided(flat[at:], array.shape, array.strides) if array.size else flat[:0]
    inside[...] = np.nan
    return bool(np.isnan(rest.astype(np.float64)).all())


DTYPES = [
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
]
_sizes = st.lists(st.integers(1, 4), min_size=0, max_size=3)
_dims = st.tuples(*[st.integers(1, 9)] * 3)


@_many
@given(batch=_sizes, dims=_dims, shared=st.booleans(), seed=st.integers(0, 1 << 30), dtypes=st.sampled_from(DTYPES))
def test_batched_products(
    library: Library, batch: list[int], dims: tuple[int, ...], shared: bool, seed: int, dtypes: tuple[str, str]
) -> None:
    (m, k, n), views, results = dims, Views(seed, dtypes[0]), Views(seed + 1, dtypes[1])
    X, W = views.draw(*batch, m, k), views.draw(*([] if shared else batch), k, n)
    Y = results.draw(*batch, m, n, filled=False)
    done, error = _multiply(batched, X, W, Y)
    assert error <= _ERRORS[dtypes[1]]
    assert all(_alone(view, memory) for memory, view in results.wholes)
    # Single rows or columns may lie anywhere, and together in no way that cuBLAS takes.
    assert done or min(dims) == 1 or not _lies(X, W, Y)


@_many
@given(batch=_sizes, dims=_dims, seed=st.integers(0, 1 << 30), dtypes=st.sampled_from(DTYPES))
def test_gradients_of_shared_matrices(
    library: Library, batch: list[int], dims: tuple[int, ...], seed: int, dtypes: tuple[str, str]
) -> None:
    (m, k, n), views, results = dims, Views(seed, dtypes[0]), Views(seed + 1, dtypes[1])
    X, dY, dW = views.draw(*batch, m, k), views.draw(*batch, m, n), results.draw(k, n, filled=False)
    done, error = _multiply(summed, X, dY, dW)
    assert error <= _ERRORS[dtypes[1]] * max(1, np.prod(batch))
    assert all(_alone(view, memory) for memory, view in results.wholes)
    assert done or min(dims) == 1 or dtypes[1] in ("float16", "bfloat16") or not _lies(X, dY, dW)


def _lies(*arrays: Host) -> bool:
    """Whether each array's matrices have rows or columns without gaps, and no smaller a step to the next."""

    def one(array: Host) -> bool:
        (rows, columns), (down, across) = array.shape[-2:], (s // array.itemsize for s in array.strides[-2:])
        plain = (across == 1 or columns <= 1) and (rows <= 1 or down >= columns)
        turned = (down == 1 or rows <= 1) and (columns <= 1 or across >= rows)
        return plain or turned

    return all(one(array) for array in arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_attention_on_views_of_rows(library: Library, dtype: str) -> None:
    """Q, K and V are views [B, N_H, S, D_h] of [B, S, D]: nothing is copied, and one call is made for each sequence."""
    B, S, H, D = 3, 5, 4, 6
    views, wide = Views(0, dtype), "float64" if dtype == "float64" else "float32"
    Q, K, V = (np.asarray(views.draw(B, S, H * D)).reshape(B, S, H, D).view(Host).transpose(0, 2, 1, 3) for _ in "QKV")
    A = np.full((B, H, S, S), np.nan, wide).view(Host)
    library.calls.clear()
    done, error = _multiply(batched, Q, K.swapaxes(-1, -2), A)
    assert done
    assert error <= _ERRORS[wide]
    assert library.calls == ["cublasGemmStridedBatchedEx"] * B
    P, heads = A.astype(_dtype(dtype)), np.full((B, S, H, D), np.nan, wide).view(Host)
    done, error = _multiply(batched, P, V, heads.transpose(0, 2, 1, 3))
    assert done
    assert error <= _ERRORS[wide]


def test_rows_of_all_sequences_are_one_product(library: Library) -> None:
    """X [B, S, D] • W [D, F] is one call; so is dW, and dX by Wᵀ, of which T is a flag."""
    views = Views(1, "float32")
    X, W = views.rng.standard_normal((2, 5, 6)), views.rng.standard_normal((6, 7))
    X, W = X.astype(np.float32).view(Host), W.astype(np.float32).view(Host)
    Y, dX, dW = (np.empty(shape, np.float32).view(Host) for shape in ((2, 5, 7), (2, 5, 6), (6, 7)))
    library.calls.clear()
    assert _multiply(batched, X, W, Y) < (True, 1e-6)
    assert _multiply(batched, Y, W.T, dX) < (True, 1e-6)
    assert _multiply(summed, X, Y, dW) < (True, 1e-6)
    # A transposed result is asked for as it lies.
    assert _multiply(summed, X, Y, np.empty((7, 6), np.float32).view(Host).T) < (True, 1e-6)
    assert library.calls == ["cublasGemmEx"] * 4


def test_tf32_is_used_where_it_is_asked_for(library: Library) -> None:
    views = Views(2, "float32")
    X, W, Y = views.draw(8, 64), views.draw(64, 8), views.draw(8, 8)
    exact, fast = _multiply(batched, X, W, Y)[1], _multiply(batched, X, W, Y, tf32=True)[1]
    assert exact <= _ERRORS["float32"]
    assert _ERRORS["float32"] < fast <= _ERRORS["tf32"]
    assert find_kind("float64", "float64", "float64", True) == find_kind("float64", "float64", "float64", False)


@pytest.mark.parametrize(
    "dtypes",
    [
        ("float32", "float64", "float64"),
        ("float16", "bfloat16", "float32"),
        ("int64",) * 3,
        ("float32",) * 2 + ("float16",),
    ],
)
def test_dtypes_that_cublas_does_not_multiply(dtypes: tuple[str, str, str]) -> None:
    assert find_kind(*dtypes, False) is None


def test_arrays_that_cublas_does_not_take() -> None:
    """What repeats itself, or has gaps within rows and columns, or a result of which elements share memory."""
    X, W = np.ones((4, 5), np.float32), np.ones((5, 6), np.float32)
    repeated = np.broadcast_to(np.float32(1), (4, 5))
    assert as_gemm(batched(X, W, np.empty((4, 6), np.float32))) is not None
    assert as_gemm(batched(repeated, W, np.empty((4, 6), np.float32))) is None
    assert as_gemm(batched(np.ones((4, 10), np.float32)[:, ::2], W, np.empty((4, 6), np.float32))) is None
    assert as_gemm(batched(X[::-1], W, np.empty((4, 6), np.float32))) is None
    many = np.lib.stride_tricks.as_strided(np.empty((4, 6), np.float32), (3, 4, 6), (0, 24, 4))
    assert as_gemm(batched(np.ones((3, 4, 5), np.float32), np.ones((3, 5, 6), np.float32), many)) is None
    assert as_gemm(batched(np.lib.stride_tricks.as_strided(X, (4, 1 << 31), (20, 0)), W, W)) is None


def test_sums_of_narrow_results_are_not_rounded_in_between() -> None:
    X, dY = np.ones((5, 2, 4), np.float16).transpose(1, 0, 2), np.ones((2, 5, 3), np.float16)
    dW = np.empty((4, 3), np.float16)
    kind = find_kind("float16", "float16", "float16", False)
    assert kind is not None
    assert find_gemm(summed(X, dY, dW), kind) is None
    assert find_gemm(summed(X.copy(), dY, dW), kind) is not None


def test_what_cublas_refuses_is_told(library: Library) -> None:
    kind = find_kind("float32", "float32", "float32", False)
    assert kind is not None
    with pytest.raises(DeviceError, match=r"could not multiply Shape\(m=4, n=4, k=4.*CUBLAS_STATUS_INVALID_VALUE"):
        cublas.handle().multiply(kind, Shape(4, 4, 4), Matrix(0, 3), Matrix(0, 4), Matrix(0, 4))


def test_another_stream_gets_the_workspace_again(library: Library) -> None:
    """cuBLAS forgets the workspace with the stream; without it, it would allocate one while it is captured."""
    handle = cublas.handle()
    for stream in (3, 4, 4):
        handle.on(stream)
        assert library._stream == stream
        assert library._workspace


# -- the library ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "wanted"), [("posix", "libcublas.so.13"), ("nt", "cublas64_13.dll")])
def test_cupy_is_asked_to_find_the_library(monkeypatch: pytest.MonkeyPatch, system: str, wanted: str) -> None:
    """CuPy looks where pip installs CUDA only if the binding is asked for as an attribute of its package."""
    found: list[str] = []

    def look(name: str) -> Any:
        if name != "cublas":
            raise AttributeError(name)
        found.append("CuPy")
        return types.ModuleType(name)

    def load(name: str) -> Any:
        found.append(name)
        return types.SimpleNamespace(**{each: types.SimpleNamespace() for each in cublas._FUNCTIONS})

    libs = types.ModuleType("cupy_backends.cuda.libs")
    libs.__getattr__ = look  # type: ignore[method-assign]
    runtime = types.SimpleNamespace(runtimeGetVersion=lambda: 13020)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy_backends", types.ModuleType("cupy_backends"))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda", types.ModuleType("cupy_backends.cuda"))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libs)
    monkeypatch.setattr(cublas, "load_cupy", lambda: cupy)
    monkeypatch.setattr(cublas.os, "name", system)
    monkeypatch.setattr(cublas.ctypes, "CDLL", load)
    load_library.cache_clear()
    load_library()
    load_library.cache_clear()
    assert found == ["CuPy", wanted]


def test_streams_have_workspaces_of_their_own(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    current = [Stream(), Stream()]
    cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: current[0]
    )
    monkeypatch.setattr(cublas, "load_cupy", lambda: types.SimpleNamespace(cuda=cuda, empty=_empty))
    first = cublas.handle()
    assert cublas.handle() is first
    current.reverse()
    second = cublas.handle()
    assert second is not first
    assert cublas.address(second._workspace) != cublas.address(first._workspace)
    # One whose stream is gone serves the next.
    current[:] = [Stream()]
    assert cublas.handle() in (first, second)
