"""NumPy's BLAS: which library and core it is, how fast it multiplies, and how to hold it to one thread.

BLAS is the library that NumPy leaves matrix products to; a *core* is the kind of processor that its kernels were
written for. Rates are in GFLOP/s, a product of n × n matrices counted as 2 n³, or in Gelem/s, elements written.
"""

from __future__ import annotations

import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from graphir.backends.forks import Guard
from graphir.processor import has_avx512

#: OpenBLAS's cores that use AVX-512.
_AVX512_CORES = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})


@dataclass(frozen=True)
class Blas:
    """What is known of a BLAS; `version`, `core` and `threading` are None where the library does not tell."""

    name: str
    version: str | None
    core: str | None
    threads: int
    threading: str | None
    path: str


def find_blas() -> Blas | None:
    """The BLAS that NumPy runs on; None if it cannot be asked, as Apple's Accelerate cannot."""
    libraries = _libraries()
    if not libraries:
        return None
    found = libraries[0].info()
    return Blas(
        found["internal_api"],
        found["version"],
        found.get("architecture"),
        found["num_threads"],
        found.get("threading_layer"),
        found["filepath"],
    )


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """NumPy's BLAS as something whose threads can be set. Found once: looking through what is loaded takes long."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    # SciPy brings a BLAS of its own. NumPy's lies beside NumPy, or else all share one.
    return tuple(each for each in found if "numpy" in each.filepath) or tuple(found)


def advice(blas: Blas | None, features: Set[str] | None) -> str | None:
    """What to set so that matrix products run faster, given the processor's `features`; None if nothing is known."""
    if blas is None or blas.name != "openblas" or not has_avx512(features) or blas.core in _AVX512_CORES:
        return None
    return (
        f"the processor has AVX-512, but OpenBLAS runs its {blas.core} core: set OPENBLAS_CORETYPE=SkylakeX in the "
        f"environment before numpy is first imported"
    )


# -- one thread -------------------------------------------------------------------------------------------


@dataclass
class _Held:
    """Who holds a BLAS to one thread at present, and how many threads each library had before."""

    holding: set[int] = field(default_factory=set)
    before: list[int | None] = field(default_factory=list)


class _HeldByThread(threading.local):
    """What each thread holds for itself."""

    def __init__(self) -> None:
        self.held = _Held()


class _HeldByProcess(Guard):
    """What all threads hold together. A forked child gives up what its parent's other threads held."""

    def __init__(self) -> None:
        super().__init__()
        self.held = _Held()

    def renew(self) -> None:
        super().renew()
        left, self.held = self.held, _Held()
        if left.holding:
            _set_threads(left.before)


_by_process, _by_thread = _HeldByProcess(), _HeldByThread()


class _Hold:
    """Holds BLAS to one thread until this ends; or until it is forgotten, where an interrupt came first."""

    _held = _Held()

    def __init__(self) -> None:
        self._held = held = _by_thread.held if _is_openmp() else _by_process.held
        with _by_process.lock:
            if not held.holding:
                held.before = [library.num_threads for library in _libraries()]
            held.holding.add(id(self))
            if len(held.holding) == 1:
                _set_threads([1] * len(held.before))

    def end(self) -> None:
        held = self._held
        with _by_process.lock:
            if id(self) in held.holding:
                if len(held.holding) == 1:
                    _set_threads(held.before)
                held.holding.discard(id(self))

    def __del__(self) -> None:
        self.end()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Holds NumPy's BLAS to one thread inside `with`, for code that splits its products between threads of its own.

    May be nested, and entered by several threads at once: the first to enter sets one thread, the last to leave
    restores what was there. The number belongs to the process, so that a product elsewhere in it runs on one thread
    meanwhile; but a BLAS that is threaded by OpenMP keeps one for each thread. So whoever computes enters, in each of
    its threads. Entering and leaving costs a few microseconds.
    """
    hold = _Hold()
    try:
        yield
    finally:
        hold.end()


@functools.cache
def _is_openmp() -> bool:
    return any(library.info().get("threading_layer") == "openmp" for library in _libraries())


def _set_threads(counts: Sequence[int | None]) -> None:
    for library, count in zip(_libraries(), counts, strict=True):
        # A library lets only the thread that set it last set it again, as long as that lives; here a lock decides.
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:
            release(force=True)
        if count is not None:
            library.set_num_threads(count)
        if release is not None:
            release(force=True)


# -- rates ------------------------------------------------------------------------------------------------


def gemm_rate(dtype: str = "float32", *, single: bool = False, size: int = 1024, repetitions: int = 7) -> float:
    """GFLOP/s of a product of two matrices [size, size]: the median of some repetitions, after a first.

    On all threads that the BLAS uses, or on a `single` one.
    """
    A, B = np.random.default_rng(0).random((2, size, size)).astype(dtype)
    C = np.empty_like(A)
    with single_threaded_blas() if single else nullcontext():
        seconds = median_seconds(lambda: np.matmul(A, B, out=C), repetitions)
    return 2e-9 * size**3 / seconds


#: What a step does beside its products, one thread, into a buffer that is there already.
ELEMENTWISE: dict[str, Callable[..., object]] = {"add": np.add, "multiply": np.multiply, "exp": np.exp, "tanh": np.tanh}


def elementwise_rate(name: str, dtype: str = "float32", *, size: int = 1 << 17, repetitions: int = 15) -> float:
    """Gelem/s that the ufunc of `ELEMENTWISE` called `name` writes, on arrays that stay in a core's cache."""
    function: Any = ELEMENTWISE[name]
    operands = np.random.default_rng(0).random((function.nin, size)).astype(dtype)
    result = np.empty(size, dtype)
    return 1e-9 * size / median_seconds(lambda: function(*operands, out=result), repetitions)


def median_seconds(work: Callable[[], object], repetitions: int) -> float:
    """The median time of `work`, after one call that is not counted."""
    work()
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)
