"""Graphs run by fused CUDA kernels alone: over the emulator, with NumPy for what they leave out, or on a real GPU."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy bfloat16
import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.emission import Rules
from graphir.backends.compiled.engine import Tiling, rounded
from graphir.backends.compiled.executable import CompiledExecutable
from graphir.backends.compiled.program import Program
from graphir.backends.cupy.kernels import CudaKernels
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from tests.cuda import emulator
from tests.cuda.emulator import Function, RawModule

_PAGE = mmap.PAGESIZE
_C = ctypes.CDLL(None, use_errno=True)


def guarded(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of NaN, or −1. It ends where its memory does, but for less than 16 bytes: to read on is a fault."""
    size = math.prod(shape) * dtype.itemsize
    # Packs of 16 bytes stay aligned.
    held = -(-max(size, 1) // 16) * 16
    pages = -(-held // _PAGE) * _PAGE
    memory = mmap.mmap(-1, pages + _PAGE)
    whole = np.frombuffer(memory, np.uint8)
    if _C.mprotect(ctypes.c_void_p(whole.ctypes.data + pages), ctypes.c_size_t(_PAGE), 0):
        raise OSError(ctypes.get_errno(), "the page behind an array cannot be protected")
    # What a kernel forgets to write shows.
    whole[pages - held : pages] = 0xFF
    return np.ndarray(shape, dtype, whole, pages - held)


def copied(array: Any) -> np.ndarray[Any, Any]:
    """A copy that is `guarded`."""
    made = guarded(array.shape, array.dtype)
    made[...] = array
    return made


@contextmanager
def unreadable(rows: np.ndarray[Any, Any]) -> Iterator[None]:
    """While these rows of a `guarded` array, whole pages, may neither be read nor written."""
    where, size = rows.ctypes.data, rows.nbytes
    assert where % _PAGE == size % _PAGE == 0
    assert not _C.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(size), 0)
    try:
        yield
    finally:
        _C.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE)


class HostArray(np.ndarray):
    """An array that has its address where CuPy's have it."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class _HostModule:
    """NumPy, with CuPy's way to compile kernels, and views that keep their class."""

    RawModule = RawModule

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def broadcast_to(array: Any, shape: Sequence[int]) -> Any:
        return np.broadcast_to(array, shape, subok=True)


class HostEngine:
    """As `Engine`, on host memory; no operator has a rule."""

    name = "host"
    has_ampere_tensor_cores = True
    xp: Any = _HostModule()
    alignment = 256
    checks_ids = False
    follows_sights = False
    tiling = Tiling(bytes=1 << 28, small=0, causal=(64, 128), whole=True)
    add, copy = staticmethod(np.add), staticmethod(np.copyto)

    def __init__(self) -> None:
        self.rules = Rules()

    @staticmethod
    def maximum(X: Any, Y: Any, out: Any) -> None:
        np.maximum(X, Y, out=out)

    def allocate(self, size: int) -> Any:
        # Pages end at a multiple of the alignment, and so does what lies before their end.
        return self.empty((rounded(size, self.alignment),), np.uint8)[:size]

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        kind = np.dtype(dtype)
        if kind.hasobject:
            return np.zeros(tuple(shape), kind).view(HostArray)
        return guarded(tuple(shape), kind).view(HostArray)

    def view(
        self, buffer: Any, shape: Sequence[int], dtype: Any, offset: int = 0, strides: Sequence[int] | None = None
    ) -> Any:
        plain = buffer.view(np.ndarray)
        made = np.ndarray(tuple(shape), dtype, plain, offset, None if strides is None else tuple(strides))
        return made.view(HostArray)

    def constant(self, array: Any) -> Any:
        return np.asarray(array).view(HostArray)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)


class HostExecutable(CompiledExecutable):
    """Calls carried out one by one, on copies of the arguments."""

    def _computing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def _hand_in(self, program: Program, value: Value, block: Any) -> None:
        np.copyto(program.rank.arrays[value], block)

    def _run_segment(self, rank: int, index: int) -> None:
        for function, arguments in self.programs[rank].segments[index].calls[0]:
            function(*arguments)

    def _hand_out(self, value: Value, given: Any) -> Any:
        return np.array(self.local.join(value, self._blocks(value)))


class Counted(CudaKernels):
    """Counts the runs that are written, and those that are refused."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.written = self.refused = 0

    def write(self, *arguments: Any) -> bool:
        done = super().write(*arguments)
        self.written += done
        self.refused += not done
        return done


def compile_with_kernels(graph: Graph, sizes: Mapping[str, int], where: str, **options: Any) -> CompiledExecutable:
    """`graph` compiled with fused CUDA kernels, `where` "emulated" or "cupy"; `kernels` of it are `Counted`."""
    planned = gi.compile(graph, sizes, **options)
    if where == "emulated":
        engine = HostEngine()
        return HostExecutable(planned.plan, planned.optimised, engine, kernels=Counted(engine))
    from graphir.backends.cupy.engine import CupyEngine
    from graphir.backends.cupy.executable import CupyExecutable

    return CupyExecutable(planned.plan, planned.optimised, kernels=Counted(CupyEngine()))


def launched(executable: CompiledExecutable) -> tuple[int, list[Any]]:
    """How many calls of a program are launches, and the other calls."""
    calls = [call for segment in executable.programs[0].segments for call in segment.calls[0]]
    others = [call for call in calls if type(call[0]).__name__ != Function.__name__]
    return len(calls) - len(others), others


def to_numpy(array: Any) -> Any:
    """A result, on the host."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def where(request: pytest.FixtureRequest) -> str:
    """Where kernels run."""
    if request.param == "emulated" and emulator.MISSING:
        pytest.skip(emulator.MISSING)
    return str(request.param)
