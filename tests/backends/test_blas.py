"""NumPy's BLAS: which it is, how it is held to one thread, how its speed is counted, and what is advised."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import timeit

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from graphir.backends import blas
from graphir.backends.blas import Blas, advice, elementwise_rate, find_blas, gemm_rate, single_threaded_blas
from graphir.processor import AVX512, has_avx512, processor_features, processor_name
from tests.support.paths import ROOT
from tests.support.processes import LIMIT

FOUND = find_blas()

needs_blas = pytest.mark.skipif(FOUND is None, reason="NumPy's BLAS is none that can be asked or told anything")
needs_threads = pytest.mark.skipif(FOUND is None or FOUND.threads < 2, reason="BLAS has one thread here anyway")


def threads():
    return find_blas().threads


# -- which it is ------------------------------------------------------------------------------------------


@needs_blas
def test_the_blas_is_the_one_that_numpy_loaded():
    known = {each["filepath"]: each for each in threadpool_info() if each["user_api"] == "blas"}
    mine = known[FOUND.path]
    assert (FOUND.name, FOUND.version, FOUND.threads) == (mine["internal_api"], mine["version"], mine["num_threads"])
    assert FOUND.core == mine.get("architecture")


def test_scipys_own_blas_is_not_taken_for_numpys(monkeypatch):
    class Library:
        def __init__(self, path):
            self.filepath = path

    found = [Library("/x/scipy.libs/libscipy_openblas-1.so"), Library("/x/numpy.libs/libscipy_openblas64_-2.so")]

    class Controller:
        lib_controllers = found

        def select(self, user_api):
            assert user_api == "blas"
            return self

    monkeypatch.setattr(blas, "ThreadpoolController", Controller)
    assert blas._libraries.__wrapped__() == (found[1],)
    found.pop()
    assert blas._libraries.__wrapped__() == tuple(found)


def test_a_blas_that_cannot_be_asked(monkeypatch):
    monkeypatch.setattr(blas, "_libraries", lambda: ())
    assert find_blas() is None
    with single_threaded_blas():
        assert (np.ones((2, 2)) @ np.ones((2, 2))).sum() == 8


# -- one thread -------------------------------------------------------------------------------------------


@needs_threads
def test_one_thread_inside_and_all_again_outside():
    before = threads()
    with single_threaded_blas():
        assert threads() == 1
        with single_threaded_blas():
            assert threads() == 1
        assert threads() == 1
    assert threads() == before


@needs_threads
def test_all_threads_again_after_an_error():
    before = threads()
    with pytest.raises(ZeroDivisionError), single_threaded_blas():
        raise ZeroDivisionError
    assert threads() == before


@needs_threads
def test_the_last_of_several_threads_to_leave_restores():
    before, inside, may_leave, seen = threads(), threading.Event(), threading.Event(), []

    def first():
        with single_threaded_blas():
            inside.set()
            assert may_leave.wait(LIMIT)
        left.set()
        assert done.wait(LIMIT)  # alive while the other leaves: a library would let this thread alone set the number

    left, done = threading.Event(), threading.Event()
    other = threading.Thread(target=first)
    other.start()
    assert inside.wait(LIMIT)
    with single_threaded_blas():
        may_leave.set()
        assert left.wait(LIMIT)
        seen.append(threads())
    seen.append(threads())
    done.set()
    other.join()
    assert seen == [1, before]


@needs_threads
def test_many_threads_enter_and_leave_as_they_like():
    before, wrong = threads(), []

    def work():
        for _ in range(200):
            with single_threaded_blas():
                if threads() != 1:
                    wrong.append(threads())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert threads() == before


@needs_threads
def test_what_was_set_before_is_what_is_restored():
    before = threads()
    with threadpool_limits(1, user_api="blas"):
        with single_threaded_blas():
            assert threads() == 1
        assert threads() == 1
    assert threads() == before


def test_a_blas_with_a_number_for_each_thread_is_held_in_each(monkeypatch):
    class Library(threading.local):
        num_threads = 8

        def set_num_threads(self, count):
            self.num_threads = count

    library, counts = Library(), []
    monkeypatch.setattr(blas, "_libraries", lambda: (library,))
    monkeypatch.setattr(blas, "_is_openmp", lambda: True)

    def elsewhere():
        counts.append(library.num_threads)
        with single_threaded_blas():
            counts.append(library.num_threads)
        counts.append(library.num_threads)

    with single_threaded_blas():
        assert library.num_threads == 1
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert library.num_threads == 1
    assert library.num_threads == 8
    assert counts == [8, 1, 8]


@needs_blas
def test_holding_costs_microseconds():
    def hold():
        with single_threaded_blas():
            pass

    assert min(timeit.repeat(hold, number=100, repeat=20)) / 100 < 50e-6


# -- how fast it is ---------------------------------------------------------------------------------------


def test_rates_count_two_operations_a_multiplication(monkeypatch):
    calls = []

    def two_seconds(work, repetitions):
        work()
        calls.append((repetitions, FOUND and threads()))
        return 2.0

    monkeypatch.setattr(blas, "median_seconds", two_seconds)
    assert gemm_rate(size=100, repetitions=3) == pytest.approx(2e-9 * 100**3 / 2)
    assert gemm_rate("float64", single=True, size=10, repetitions=5) == pytest.approx(2e-9 * 10**3 / 2)
    assert elementwise_rate("add", size=1000, repetitions=9) == pytest.approx(1e-9 * 1000 / 2)
    assert [repetitions for repetitions, _ in calls] == [3, 5, 9]
    if FOUND is not None:
        assert [count for _, count in calls] == [FOUND.threads, 1, FOUND.threads]


@pytest.mark.parametrize("name", blas.ELEMENTWISE)
def test_every_elementwise_rate_can_be_measured(name):
    assert 0 < elementwise_rate(name, size=64, repetitions=1) < np.inf


def test_the_median_leaves_the_first_call_out(monkeypatch):
    durations, now = iter([100.0, 3.0, 1.0, 2.0]), [0.0]

    def work():
        now[0] += next(durations)

    monkeypatch.setattr(blas.time, "perf_counter", lambda: now[0])
    assert blas.median_seconds(work, 3) == 2.0


# -- what is advised --------------------------------------------------------------------------------------


def openblas(core, name="openblas"):
    return Blas(name, "0.3.30", core, 2, "pthreads", "libopenblas.so")


def test_advice_where_openblas_leaves_avx512_unused():
    assert advice(openblas("Haswell"), AVX512 | {"sse2"}) == (
        "the processor has AVX-512, but OpenBLAS runs its Haswell core: set OPENBLAS_CORETYPE=SkylakeX in the "
        "environment before numpy is first imported"
    )


@pytest.mark.parametrize(
    ("found", "features"),
    [
        (openblas("SkylakeX"), AVX512),
        (openblas("Cooperlake"), AVX512),
        (openblas("Haswell"), AVX512 - {"avx512cd"}),
        (openblas("Haswell"), None),
        (openblas("Haswell", name="mkl"), AVX512),
        (None, AVX512),
    ],
)
def test_no_advice_where_there_is_nothing_to_set(found, features):
    assert advice(found, features) is None


def test_importing_the_library_sets_nothing():
    program = "import graphir, graphir.backends.blas, os; print(sorted(n for n in os.environ if 'OPENBLAS' in n))"
    environment = {name: value for name, value in os.environ.items() if "OPENBLAS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# -- the processor ----------------------------------------------------------------------------------------


def test_what_linux_says_of_a_processor(tmp_path):
    path = tmp_path / "cpuinfo"
    core = "model name\t: AMD EPYC: 7R13\nflags\t\t: fpu sse2 avx2\nbugs\t\t:\n"
    path.write_text(f"processor\t: 0\n{core}\nprocessor\t: 1\n{core.replace('avx2', 'avx512f')}\n")
    assert processor_name(path) == "AMD EPYC: 7R13"
    assert processor_features(path) == {"fpu", "sse2", "avx2"}


@pytest.mark.parametrize("content", [None, "", "Features\t: neon\n"])
def test_an_unknown_processor(tmp_path, content):
    path = tmp_path / "cpuinfo"
    if content is not None:
        path.write_text(content)
    assert processor_name(path) == "unknown"
    assert processor_features(path) is None


def test_avx512_is_all_of_its_parts():
    assert has_avx512(AVX512 | {"avx2"}) is True
    assert has_avx512(None) is None
    for part in AVX512:
        assert has_avx512(AVX512 - {part}) is False
