"""The CuPy backend's rules against the reference kernels: on views of any strides, their real kernels emulated.

A rule records calls; here they are recorded into fresh memory and run at once. What is to be written is filled with NaN
first, so that what a rule forgets shows.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graphir.backends.cupy import cublas
from graphir.backends.cupy.engine import rules
from graphir.backends.cupy.rules import embedding, linear, reduction  # noqa: F401  declares them
from graphir.ir.operator import Operator, Place
from graphir.ir.signature import Signature
from graphir.operators.decode import argmax
from graphir.operators.elementwise import zeros
from graphir.operators.embedding import d_lookup, lookup, sinusoidal_positions
from graphir.operators.linear import d_matmul, matmul
from graphir.operators.loss import count_elements
from graphir.operators.shape import sum_op
from tests.cuda import emulator
from tests.cuda.blas import Library
from tests.cuda.harness import copied, guarded
from tests.cuda.runtime import Stream

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))


class Host(np.ndarray[Any, Any]):
    """An array of the host with a device array's `data.ptr`."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])


def _array(made: Any) -> Host:
    return np.asarray(made).view(Host)


class Recorder:
    """A rule's calls, run as they are recorded."""

    def __init__(self) -> None:
        self.engine = types.SimpleNamespace(xp=emulator, tf32=False, copy=np.copyto)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def scratch(self, shape: Sequence[int], dtype: Any) -> Host:
        return _array(guarded(tuple(shape), np.dtype(dtype)))

    def constant(self, make: Callable[..., NDArray[Any]], *arguments: Any) -> Host:
        return _array(make(*arguments))


@pytest.fixture(autouse=True)
def library() -> Iterator[Library]:
    """cuBLAS's stand-in, of the one device that there is."""
    library = Library()
    stream, runtime = Stream(), types.SimpleNamespace(getDevice=lambda: 0)
    cuda = types.SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream)

    def empty(size: int, dtype: str) -> Host:
        raw = np.empty(size + 256, dtype)
        return _array(raw[-raw.ctypes.data % 256 :][:size])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cublas, "load_cupy", lambda: types.SimpleNamespace(cuda=cuda, empty=empty))
        patch.setattr(cublas, "load_library", lambda: library)
        cublas.forget_handles()
        yield library
    cublas.forget_handles()


def _run(operator: Operator, **given: Any) -> None:
    rule = rules.find(operator)
    assert rule is not None
    assert rule.emit(Recorder(), **given) is not False


def _place(signature: str, starts: dict[str, int], sizes: dict[str, int]) -> Place:
    return Place(Signature((), ()), starts, sizes)


def _strided(rng: np.random.Generator, shape: Sequence[int], dtype: Any, turned: bool) -> Host:
    """Normal numbers, in rows with a gap behind each; `turned`: the first two dims change places in memory."""
    order = list(range(len(shape)))
    if turned and len(shape) > 2:
        order[0], order[1] = 1, 0
    stored = [shape[i] for i in order]
    memory = copied(rng.standard_normal([*stored[:-1], stored[-1] + 3]).astype(dtype))
    return _array(memory[..., : stored[-1]].transpose(np.argsort(order)))


FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


# -- the embedding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ids", [np.int32, np.int64])
def test_lookup_of_a_block(dtype: Any, ids: Any, turned: bool) -> None:
    """Of ids in another rank's block, X is 0."""
    rng = np.random.default_rng(0)
    E, T = _strided(rng, (7, 40), dtype, False), _array(rng.integers(0, 20, (3, 5)).astype(ids))
    at = _place("", {"v": 6}, {"v": 20})
    X = _strided(rng, (3, 5, 40), dtype, turned)
    X[...] = np.nan
    _run(lookup, E=E, T=T, X=X, at=at)
    np.testing.assert_array_equal(X, lookup.kernel(np, np.asarray(E), np.asarray(T), at=at))


@pytest.mark.parametrize(("tokens", "most"), [(30, 20), (4000, 3), (0, 4), (700, 1)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_of_lookup(dtype: Any, tokens: int, most: int) -> None:
    """Rows are added up in float32 or float64 and rounded once, or once a list where an id occurs very often."""
    rng = np.random.default_rng(1)
    T, dX = _array(rng.integers(0, most, (2, tokens // 2))), _strided(rng, (2, tokens // 2, 33), dtype, False)
    at = _place("", {"v": 1}, {"v": 30})
    dE = _strided(rng, (8, 33), dtype, False)
    dE[...] = np.nan
    _run(d_lookup, T=T, dX=dX, dE=dE, v=30, at=at)
    wanted = d_lookup.kernel(np, np.asarray(T), np.asarray(dX, np.float64), v=30, shape=dE.shape, at=at)
    sizes = d_lookup.kernel(np, np.asarray(T), abs(np.asarray(dX, np.float64)), v=30, shape=dE.shape, at=at)
    lists = 1 + tokens // 768
    error = abs(np.asarray(dE, np.float64) - wanted) / np.maximum(sizes, 1)
    assert error.max() <= {8: 1e-14, 4: 2e-6, 2: 4e-3 * lists}[np.dtype(dtype).itemsize]
    first = dE.copy()
    _run(d_lookup, T=T, dX=dX, dE=dE, v=30, at=at)
    np.testing.assert_array_equal(dE, first)


@pytest.mark.slow
def test_large_tables_are_shared_out_by_rows() -> None:
    """More rows than blocks: each block owns several; those of no token are 0."""
    rng = np.random.default_rng(2)
    T, dX = _array(rng.integers(0, 5000, 50)), _array(rng.standard_normal((50, 3)).astype(np.float32))
    at = _place("", {"v": 0}, {"v": 5000})
    dE = _array(np.full((5000, 3), np.nan, np.float32))
    _run(d_lookup, T=T, dX=dX, dE=dE, v=5000, at=at)
    np.testing.assert_allclose(dE, d_lookup.kernel(np, T, dX, v=5000, shape=dE.shape, at=at), atol=1e-6)


def test_sinusoidal_positions() -> None:
    at = _place("", {"s": 3, "d": 2}, {"s": 20, "d": 16})
    P = _array(np.full((5, 8), np.nan, np.float32))
    _run(sinusoidal_positions, P=P, s=20, d=16, dtype="float32", at=at)
    wanted = sinusoidal_positions.kernel(np, s=20, d=16, dtype="float32", shape=(5, 8), at=at)
    np.testing.assert_array_equal(P, wanted)


# -- products ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_products_and_their_gradients(shared: bool) -> None:
    rng = np.random.default_rng(3)
    batch = () if shared else (2, 3)
    X, W = _strided(rng, (2, 3, 4, 5), np.float32, True), _strided(rng, (*batch, 5, 6), np.float32, False)
    dY = _strided(rng, (2, 3, 4, 6), np.float32, False)
    Y, dX, dW = (_array(np.full(each.shape, np.nan, np.float32)) for each in (dY, X, W))
    _run(matmul, X=X, W=W, Y=Y, dtype="")
    np.testing.assert_allclose(Y, X @ W, rtol=1e-4, atol=1e-5)
    _run(d_matmul, X=X, W=W, dY=dY, dX=dX, dW=dW, shared=shared, grouped=False, dtype="")
    np.testing.assert_allclose(dX, dY @ W.swapaxes(-1, -2), rtol=1e-4, atol=1e-5)
    terms = X.swapaxes(-1, -2) @ dY
    np.testing.assert_allclose(dW, terms.sum(axis=(0, 1)) if shared else terms, rtol=1e-4, atol=1e-5)


def test_operands_that_cublas_does_not_take_are_laid_out_anew() -> None:
    W, Y = _array(np.arange(12, dtype=np.float32).reshape(3, 4)), _array(np.full((5, 4), np.nan, np.float32))
    X = _array(np.broadcast_to(np.float32([[2], [3], [4], [5], [6]]), (5, 3)))
    _run(matmul, X=X, W=W, Y=Y, dtype="")
    np.testing.assert_array_equal(Y, X @ W)
    narrow = _array(np.ones((3, 2, 4), np.float16).transpose(1, 0, 2))
    dW = _array(np.full((4, 4), np.nan, np.float16))
    dY = _array(np.ones((2, 3, 4), np.float16))
    _run(d_matmul, X=narrow, W=None, dY=dY, dX=None, dW=dW, shared=True, grouped=False, dtype="")
    np.testing.assert_array_equal(dW, np.full((4, 4), 6, np.float16))


def test_empty_products() -> None:
    """Over no terms, sums are 0; of no rows, nothing is done."""
    Y = _array(np.full((2, 3), np.nan, np.float32))
    _run(matmul, X=_array(np.ones((2, 0), np.float32)), W=_array(np.ones((0, 3), np.float32)), Y=Y, dtype="")
    np.testing.assert_array_equal(Y, np.zeros((2, 3)))
    _run(matmul, X=_array(np.ones((0, 4))), W=_array(np.ones((4, 3))), Y=_array(np.ones((0, 3))), dtype="")


def test_dtypes_without_products_are_left_to_the_reference() -> None:
    rule, ones = rules.find(matmul), _array(np.ones((2, 2), np.int64))
    assert rule is not None
    assert rule.emit(Recorder(), X=ones, W=ones, Y=ones.copy(), dtype="") is False


# -- reductions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2), ()])
@pytest.mark.parametrize("turned", [False, True])
def test_sums_over_any_axes(axes: tuple[int, ...], turned: bool) -> None:
    rng = np.random.default_rng(4)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-13)):
        X = _strided(rng, (4, 5, 300), dtype, turned)
        wanted = X.sum(axis=axes, dtype=np.float64)
        Y = _array(np.full(np.shape(wanted), np.nan, dtype))
        _run(sum_op, X=X, Y=Y, axes=axes, rank=3)
        np.testing.assert_allclose(Y, wanted, rtol=tolerance, atol=tolerance * 30)


def test_sums_of_nothing_are_zero() -> None:
    Y = _array(np.full((3,), np.nan, np.float32))
    _run(sum_op, X=_array(np.ones((3, 0), np.float32)), Y=Y, axes=(1,), rank=2)
    np.testing.assert_array_equal(Y, np.zeros(3))


@pytest.mark.parametrize("width", [1, 31, 256, 257, 1000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_argmax_takes_the_first_of_equals(dtype: Any, width: int) -> None:
    rng = np.random.default_rng(5)
    P = _strided(rng, (2, 3, width), dtype, True)
    P[...] = rng.integers(0, 4, P.shape).astype(dtype)
    if width > 1:
        P[0, 0, width // 2 :] = np.nan
        P[1, 1, :] = -np.inf
    ids = _array(np.full((2, 3), -1, np.int64))
    _run(argmax, P=P, ids=ids)
    np.testing.assert_array_equal(ids, np.asarray(P, np.float64).argmax(axis=-1))


def test_numbers() -> None:
    n, Y = _array(np.full((), np.nan, np.float32)), _array(np.full((3,), np.nan, np.float32))
    _run(count_elements, X=_array(np.ones((3, 4), np.float32)), n=n)
    assert n == 12
    _run(zeros, X=Y, Y=Y)
    np.testing.assert_array_equal(Y, np.zeros(3))
