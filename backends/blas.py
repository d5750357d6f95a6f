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

from graphir.backends.forks import renew_in_children
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
class _Hold:
    """Who holds a BLAS to one thread at present, and how many threads each library had before."""

    holders: set[object] = field(default_factory=set)
    before: list[int | None] = field(default_factory=list)

    def join(self, holder: object) -> None:
        """From now on until it leaves, `holder` has one thread."""
        if not self.holders:
            self.before = [library.num_threads for library in _libraries()]
        self.holders.add(holder)
        if len(self.holders) == 1:
            _set_threads([1] * len(self.before))

    def leave(self, holder: object) -> None:
        """The last to leave restores what was there; who has not joined leaves all as it is."""
        if holder in self.holders:
            self.holders.discard(holder)
            if not self.holders:
                _set_threads(self.before)


class _HoldOfThread(threading.local):
    """A hold that each thread has for itself."""

    def __init__(self) -> None:
        self.hold = _Hold()


class _HoldOfProcess:
    """The hold that all threads share. A forked child gives up what its parent's other threads held."""

    def __init__(self) -> None:
        # Reentrant: a finaliser may come to a run of its own while this is being entered.
        self.lock, self.hold = threading.RLock(), _Hold()
        renew_in_children(self)

    def renew(self) -> None:
        """As `Renewed.renew`."""
        # Who holds it here was in another thread, but for a run from within which the child was forked, and which ends.
        self.lock, left, self.hold = threading.RLock(), self.hold, _Hold()
        if left.holders:
            _set_threads(left.before)


_of_process, _of_thread = _HoldOfProcess(), _HoldOfThread()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Holds NumPy's BLAS to one thread inside `with`, for code that splits its products between threads of its own.

    May be nested, and entered by several threads at once: the first to enter sets one thread, the last to leave
    restores what was there. The number belongs to the process, so that a product elsewhere in it runs on one thread
    meanwhile; but a BLAS that is threaded by OpenMP keeps one for each thread. So whoever computes enters, in each of
    its threads. Entering and leaving costs a few microseconds.
    """
    hold = _of_thread.hold if _is_openmp() else _of_process.hold
    holder = object()
    try:
        with _of_process.lock:
            hold.join(holder)
        yield
    finally:
        with _of_process.lock:
            hold.leave(holder)


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
