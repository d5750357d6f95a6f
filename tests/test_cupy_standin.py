"""The stand-in for CuPy: it has no name that CuPy lacks, and refuses what CuPy and a captured stream refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphir.backends.arrays import module_of
from tests.cuda import standin
from tests.cuda.arrays import ndarray
from tests.cuda.runtime import CUDARuntimeError


@pytest.fixture
def cupy() -> Iterator[Any]:
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


def test_the_stand_in_refuses_what_cupy_does(cupy: Any) -> None:
    array = cupy.ones((2, 3), "float32")
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError, match="Unsupported type"):
        cupy.add(array, np.ones((2, 3), "float32"))
    with pytest.raises(AttributeError, match="no attribute 'matvec'"):
        _ = cupy.matvec
    assert isinstance(array.sum(), ndarray)
    assert module_of(array) is cupy
    assert module_of(array.get()) is np


@pytest.mark.parametrize(
    "does",
    [
        lambda cupy, array: float(array[0]),
        lambda cupy, array: cupy.asarray(2.0),
        lambda cupy, array: array[array > 0],
        lambda cupy, array: cupy.nonzero(array),
        lambda cupy, array: array.set(np.zeros(3, "float32")),
    ],
    ids=["read", "constant", "mask", "nonzero", "set"],
)
def test_a_captured_stream_does_not_wait(cupy: Any, does: Any) -> None:
    array = cupy.ones((3,), "float32")
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
            does(cupy, array)
        with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()


@pytest.mark.parametrize(
    "does",
    [lambda cupy, array: cupy.empty((3,), "float32"), lambda cupy, array: array + 1],
    ids=["empty", "temporary"],
)
def test_a_captured_stream_allocates_unless_the_allocator_refuses(cupy: Any, does: Any) -> None:
    def refuse(size: int) -> None:
        raise MemoryError(f"{size} bytes")

    array = cupy.ones((3,), "float32")
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        does(cupy, array)
        with cupy.cuda.using_allocator(refuse), pytest.raises(MemoryError, match="12 bytes"):
            does(cupy, array)
        stream.end_capture()
    does(cupy, array)


def test_the_stand_in_takes_launches_and_texts_as_cupy_does(cupy: Any) -> None:
    with pytest.raises(UnicodeEncodeError):
        cupy.RawModule(code="// Kᵀ", options=())
    with pytest.raises(TypeError, match="options as a tuple"):
        cupy.RawModule(code="", options=["-std=c++17"])


def test_what_is_captured_is_carried_out_when_the_graph_is_launched(cupy: Any) -> None:
    array = cupy.ones((3,), "float32")
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
