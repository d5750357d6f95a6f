"""The stand-in for CuPy: it has no name that CuPy lacks, and refuses what CuPy and a captured stream refuse.

Where there is a GPU, CuPy itself passes the same tests, so that nothing is asked of the stand-in alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from graphir.backends.arrays import module_of
from tests.cuda import standin
from tests.cuda.arrays import ndarray


@pytest.fixture(params=["stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The stand-in, and what it stands in for: both do the same."""
    if request.param == "cupy":
        yield importlib.import_module("cupy")
        return
    with standin.installed() as module:
        yield module


def test_the_stand_in_has_only_names_that_cupy_has() -> None:
    real = pytest.importorskip("cupy")
    names = [*standin.FUNCTIONS, *vars(standin.cupy)]
    lacking = [name for name in names if not name.startswith("_") and not hasattr(real, name)]
    assert not lacking
    for part in ("cuda", "cuda.runtime", "cuda.memory", "cuda.stream"):
        mine, its = standin.cupy, real
        for name in part.split("."):
            mine, its = getattr(mine, name), getattr(its, name)
        # Devices are how many the stand-in has.
        names = [name for name in dir(mine) if not name.startswith("_") and name != "devices"]
        assert [name for name in names if not hasattr(its, name)] == [], part
    assert [name for name in dir(ndarray) if not name.startswith("_") and not hasattr(real.ndarray, name)] == []


def test_arrays_are_as_strict_as_cupys(cupy: Any) -> None:
    array = cupy.ones((2, 3), "float32")
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError, match="Unsupported type"):
        cupy.add(array, np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match="non-scalar"):
        cupy.copyto(array, np.ones((2, 3), "float32"))
    with pytest.raises(AttributeError, match="no attribute 'matvec'"):
        _ = cupy.matvec
    assert isinstance(array.sum(), cupy.ndarray)
    assert module_of(array) is cupy
    assert module_of(array.get()) is np


@contextmanager
def captured(cupy: Any, ends: bool = True, non_blocking: bool = True) -> Iterator[Any]:
    """The current stream is captured; at the end it is a graph, or what was asked for has spoilt it."""
    stream = cupy.cuda.Stream(non_blocking=non_blocking)
    with stream:
        stream.begin_capture()
        try:
            yield stream
        except BaseException:
            with suppress(RuntimeError):
                stream.end_capture()
            raise
        if ends:
            stream.end_capture()
            return
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match=r"StreamCapture(Invalidated|Unjoined)"):
            stream.end_capture()


@pytest.mark.parametrize(
    ("direction", "does"),
    [
        ("D2H", lambda cupy, array: float(array[0])),
        ("D2H", lambda cupy, array: bool(array.any())),
        ("D2H", lambda cupy, array: array.get()),
        ("D2H", lambda cupy, array: array[array > 0]),
        ("D2H", lambda cupy, array: cupy.nonzero(array)),
        ("H2D", lambda cupy, array: cupy.asarray([2.0, 3.0])),
        ("H2D", lambda cupy, array: array.set(np.zeros(3, "float32"))),
    ],
    ids=["float", "bool", "get", "mask", "nonzero", "asarray", "set"],
)
def test_no_copy_between_host_and_device_is_captured(cupy: Any, direction: str, does: Any) -> None:
    array = cupy.ones((3,), "float32")
    with captured(cupy):
        with pytest.raises(RuntimeError, match=f"the current stream is capturing, so {direction} transfers are"):
            does(cupy, array)
        cupy.add(array, array, array)


@pytest.mark.parametrize(
    "does",
    [lambda cupy, A: cupy.matmul(A, A), lambda cupy, A: A @ A, lambda cupy, A: A.dot(A)],
    ids=["matmul", "@", "dot"],
)
def test_cupys_products_cannot_be_captured(cupy: Any, does: Any) -> None:
    A = cupy.ones((3, 3), "float32")
    with captured(cupy), pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
        does(cupy, A)


@pytest.mark.parametrize(
    ("error", "does"),
    [
        ("cudaErrorStreamCaptureUnsupported", lambda stream, event: stream.synchronize()),
        ("cudaErrorCapturedEvent", lambda stream, event: stream.record().synchronize()),
        ("cudaErrorStreamCaptureIsolation", lambda stream, event: stream.wait_event(event)),
    ],
    ids=["wait for the stream", "wait for an event", "an event of before"],
)
def test_a_capture_is_spoilt_by_what_waits(cupy: Any, error: str, does: Any) -> None:
    event = cupy.cuda.Stream(non_blocking=True).record()
    with captured(cupy, ends=False) as stream, pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match=error):
        does(stream, event)


def test_the_default_stream_spoils_the_capture_of_one_that_waits_for_it(cupy: Any) -> None:
    array, null = cupy.ones((3,), "float32"), cupy.cuda.get_current_stream()
    # In the words of CUDA's runtime, or of its driver.
    implicit = pytest.raises(RuntimeError, match=r"(?i)stream_?capture_?implicit")
    with captured(cupy, ends=False, non_blocking=False), null, implicit:
        cupy.add(array, array, array)
    with captured(cupy), null:
        cupy.add(array, array, array)


def test_what_another_stream_does_in_between_is_part_of_the_graph(cupy: Any) -> None:
    array = cupy.ones((3,), "float32")
    cupy.add(array, array, array)
    before = cupy.cuda.get_current_stream().record()
    stream, beside = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with stream:
        stream.begin_capture()
        beside.wait_event(stream.record())
        with beside:
            cupy.add(array, array, array)
        stream.wait_event(beside.record())
        graph = stream.end_capture()
        stream.wait_event(before)
        graph.launch()
        assert array.get().tolist() == [4] * 3
    with captured(cupy, ends=False) as origin:
        beside.wait_event(origin.record())
        with beside:
            cupy.add(array, array, array)


@pytest.mark.parametrize(
    "does",
    [
        lambda cupy, array: cupy.empty((3,), "float32"),
        lambda cupy, array: array + 1,
        lambda cupy, array: cupy.asarray(2.0, "float32"),
    ],
    ids=["empty", "temporary", "number"],
)
def test_a_captured_stream_allocates_unless_the_allocator_refuses(cupy: Any, does: Any) -> None:
    def refuse(size: int) -> None:
        raise MemoryError(f"{size} bytes")

    array = cupy.ones((3,), "float32")
    with captured(cupy):
        does(cupy, array)
        with cupy.cuda.using_allocator(refuse), pytest.raises(MemoryError, match=r"^(4|12) bytes"):
            does(cupy, array)
    does(cupy, array)


def test_launches_and_texts_are_taken_as_cupy_takes_them(cupy: Any) -> None:
    with pytest.raises(TypeError, match="options"):
        cupy.RawModule(code="", options=["-std=c++17"])
    kernel = cupy.RawModule(code='extern "C" __global__ void set(float* x) { *x = 2; }').get_function("set")
    array = cupy.ones((1,), "float32")
    for grid, block in (([1], (1,)), ((1,), [1])):
        with pytest.raises(TypeError):
            kernel(grid, block, (array,))
    with pytest.raises(TypeError):
        kernel((1,), (1,), (np.ones(3, "float32"),))
    kernel((1,), (1,), (array,))
    assert array.get().tolist() == [2]


def test_texts_are_plain_in_every_locale() -> None:
    with standin.installed() as module, pytest.raises(UnicodeEncodeError):
        module.RawModule(code="// K\u1d40", options=())


def test_what_is_captured_is_carried_out_when_the_graph_is_launched(cupy: Any) -> None:
    array = cupy.ones((3,), "float32")
    array[1:] *= 1
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        cupy.add(array, array, array)
        array[1:] *= 3
        graph = stream.end_capture()
        assert array.get().tolist() == [1, 1, 1]
        graph.launch()
        graph.launch()
    assert array.get().tolist() == [4, 36, 36]
