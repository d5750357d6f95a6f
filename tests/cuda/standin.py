"""A stand-in for CuPy on a machine without a GPU: the module itself, of parts that each stand in for one of CuPy's.

    runtime     streams, captures, memory
    arrays      arrays and functions of them, by NumPy
    emulator    raw modules: CUDA's text as C++ on the host
    blas, nccl  NVIDIA's libraries

Only names that CuPy has are there.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.cuda import blas, emulator, nccl
from tests.cuda.arrays import (
    UFUNCS,
    array,
    asarray,
    ascontiguousarray,
    asnumpy,
    copyto,
    empty,
    may_share_memory,
    ndarray,
    through,
    ufunc,
)
from tests.cuda.runtime import (
    STATE,
    Device,
    Event,
    Graph,
    MemoryPointer,
    OutOfMemoryError,
    Runtime,
    State,
    Stream,
    UnownedMemory,
    alloc_pinned_memory,
    enqueue,
    refuse_cublas,
    transfers,
    using_allocator,
)

#: What is NumPy's own in CuPy, too.
_CONSTANTS = (
    "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 intp pi inf nan newaxis dtype "
    "ndim shape size result_type can_cast finfo iinfo"
)
#: NumPy's functions that CuPy has, of those that anything here asks for.
_FUNCTIONS = (
    "abs all any arange argmax argmin argpartition argsort array_split atleast_1d bincount broadcast_arrays "
    "broadcast_to clip concatenate count_nonzero cumsum diff dot einsum expand_dims eye flatnonzero full full_like "
    "linspace max mean min moveaxis nonzero ones ones_like outer partition prod put_along_axis ravel repeat reshape "
    "roll searchsorted sort split squeeze stack std sum swapaxes take take_along_axis tensordot tile transpose tri "
    "tril triu unique vdot where zeros zeros_like empty_like round argwhere isscalar var"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())
#: Functions whose result's shape depends on numbers, which have to be brought home for it.
_WAITING = ("nonzero", "flatnonzero", "argwhere", "unique")
#: What CuPy asks of cuBLAS.
_PRODUCTS = ("matmul", "dot", "vdot", "outer", "tensordot", "einsum")


class RawModule(emulator.RawModule):
    """CUDA's text on the host, whose launches go to the current stream."""

    enqueue = staticmethod(enqueue)


class RawKernel(emulator.RawKernel):
    """One kernel of such a text."""

    module = RawModule


def _module() -> Any:
    found = types.ModuleType("cupy")
    found.__version__ = "14.2.0"  # type: ignore[attr-defined]
    for name in _CONSTANTS.split():
        if hasattr(np, name):
            setattr(found, name, getattr(np, name))
    for each in (
        ndarray,
        ufunc,
        asarray,
        array,
        ascontiguousarray,
        empty,
        copyto,
        asnumpy,
        may_share_memory,
        RawModule,
        RawKernel,
    ):
        setattr(found, each.__name__, each)
    for name, each in UFUNCS.items():
        setattr(found, name, each)
    found.matmul = through(np.matmul, refuse_cublas)  # type: ignore[attr-defined]
    pool = types.SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, free_all_blocks=lambda: None)
    found.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]
    found.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Stream=Stream, Event=Event, Graph=Graph, Device=Device, MemoryPointer=MemoryPointer,
        UnownedMemory=UnownedMemory, runtime=Runtime(),
        alloc_pinned_memory=alloc_pinned_memory, using_allocator=using_allocator,
        get_current_stream=lambda: STATE.stream, is_available=lambda: True,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError, MemoryPointer=MemoryPointer),
        stream=types.SimpleNamespace(Stream=Stream, get_current_stream=lambda: STATE.stream),
    )  # fmt: skip

    def missing(name: str) -> Any:
        """NumPy's function of that name, if CuPy has it, too."""
        if name.startswith("__") or not hasattr(np, name) or name not in FUNCTIONS:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        before = partial(transfers, name, "D2H") if name in _WAITING else refuse_cublas if name in _PRODUCTS else None
        made = through(getattr(np, name), before)
        setattr(found, name, made)
        return made

    found.__getattr__ = missing  # type: ignore[attr-defined]
    return found


cupy = _module()


@contextmanager
def installed() -> Iterator[Any]:
    """`import cupy` gives the stand-in, on a device that nobody has used yet, and cuBLAS is `tests.cuda.blas`."""
    from graphir.backends.cupy import cublas

    state = vars(STATE).copy()
    vars(STATE).update(vars(State()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        # CuPy's, too, is no attribute of `cupy.cuda` unless it is imported.
        patch.setitem(sys.modules, "cupy.cuda.nccl", nccl)
        patch.setattr(cublas, "load_library", lambda: library)
        patch.setattr(nccl, "enqueue", enqueue)
        library = blas.Library(enqueue)
        cublas.forget_handles()
        yield cupy
    cublas.forget_handles()
    vars(STATE).update(state)
