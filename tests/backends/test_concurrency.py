"""One executable called from several threads: calls take turns, results stay the caller's, threads end with it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.executable import Executable
from graphir.backends.numpy.results import ResultBuffers
from graphir.errors import ConfigError, RunError
from graphir.passes import Optimizer, autodiff, optimize
from tests.support.hooked import Hook, content, hooked, is_right
from tests.support.processes import LIMIT
from tests.support.sampled import sampled
from tests.support.sharding_cases import Case, batch, sharded_step_of, start, step_of

SINGLE, PARALLEL = Case("single", ()), Case("megatron", (("tp", 2),))


@pytest.fixture
def hook() -> Iterator[Hook]:
    with hooked() as made:
        yield made


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(i)` returns in each of as many threads, which begin together."""
    ready = threading.Barrier(count)

    def begin(i: int) -> Any:
        ready.wait(LIMIT)
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


# -- turns ------------------------------------------------------------------------------------------------


@sampled(1, options=[{"threads": 1}, {"threads": 2}, {"backend": "reference"}], case=[SINGLE, PARALLEL], count=[10, 20])
def test_losses_from_eight_threads_are_the_serial_ones(case: Case, options: dict[str, Any], count: int) -> None:
    graph, inputs = step_of(case), batch(case.sizes, 0)
    given = start(graph, tuple(case.sizes.items()))
    run = gi.compile(sharded_step_of(case) if case.mesh else graph, case.sizes, **options)
    scaled = [{name: array * (1 + 0.01 * i) for name, array in given.items()} for i in range(8)]

    def losses(i: int) -> list[float]:
        return [float(run(scaled[i], {**inputs, "step": step})["L"]) for step in range(count)]

    serial = [losses(i) for i in range(8)]
    assert at_once(8, losses) == serial
    assert len({loss for each in serial for loss in each}) == 8 * count


def test_a_call_waits_until_the_one_before_has_returned(hook: Hook) -> None:
    run, log = hook.compile(threads=1), []
    inside, calling = threading.Event(), threading.Event()

    def first() -> None:
        log.append("first in")
        inside.set()
        assert calling.wait(LIMIT)
        hook.act = lambda: log.append("second in")
        log.append("first out")

    def second() -> Any:
        assert inside.wait(LIMIT)
        calling.set()
        return run(content(1))

    hook.act = first
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        assert is_right(run(content(0)), 0)
        assert is_right(other.result(LIMIT), 1)
    first_out = log.index("first out")
    assert log[0] == "first in"
    assert "second in" in log[first_out:]


def test_results_stay_right_while_another_thread_runs_on(hook: Hook) -> None:
    run = hook.compile()
    mine = run(content(0))
    before = {name: array.copy() for name, array in mine.items()}
    with ThreadPoolExecutor(1) as pool:
        assert all(pool.map(lambda seed: is_right(run(content(seed)), seed), range(1, 6)))
        assert all(np.array_equal(mine[name], array) for name, array in before.items())
    held = [run(content(seed)) for seed in range(4)]
    assert all(is_right(each, seed) for seed, each in enumerate(held))


def test_threads_that_donate_state_of_their_own_do_not_meet() -> None:
    graph, inputs = step_of(SINGLE), batch(SINGLE.sizes, 0)
    run = gi.compile(graph, SINGLE.sizes, donate=True, threads=2)

    def train(seed: int) -> dict[str, Any]:
        state = gi.initialize(graph, SINGLE.sizes, seed)
        for step in range(10):
            state = run(state, {**inputs, "step": step}).updated()
        return state

    serial = [train(seed) for seed in range(4)]
    for alone, together in zip(serial, at_once(4, train), strict=True):
        assert all(np.array_equal(alone[name], together[name]) for name in alone)


def test_a_profile_takes_turns_with_runs(hook: Hook) -> None:
    run = hook.compile()
    made = at_once(4, lambda i: run.profile(content(), repetitions=2) if i % 2 else run(content(i)))
    assert [is_right(made[i], i) for i in (0, 2)] == [True, True]


@pytest.mark.slow
def test_graphs_are_made_and_compiled_in_many_threads_at_once() -> None:
    def work(i: int) -> float:
        model = gi.models.transformer(layers=1 + i % 2, dropout=0.1)
        step = optimize(autodiff(model), Optimizer(clip=1.0))
        sizes = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 16, "V": 7 + i}
        T = np.random.default_rng(i).integers(0, sizes["V"], (2, 4))
        run = gi.compile(step, sizes, threads=2, check=False)
        return float(run(gi.initialize(step, sizes), {"T": T, "Y": T, "seed": i, "step": 0})["L"])

    assert at_once(8, work) == list(map(work, range(8)))


# -- from within ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_cannot_call_the_executable_that_it_is_part_of(hook: Hook, threads: int) -> None:
    run, tried = hook.compile(threads), set()

    def again() -> None:
        tried.add(threading.current_thread().name)
        with pytest.raises(RunError, match="the executable of hooked is called from within a run that has to end"):
            run(content())

    hook.act = again
    assert is_right(run(content()))
    assert len(tried) == threads
    hook.act = lambda: None
    assert is_right(run(content(1)), 1)


def test_a_kernel_may_call_another_executable(hook: Hook) -> None:
    outer, inner, made = hook.compile(), hook.compile(), []

    def other() -> None:
        if not made:
            hook.act = lambda: None
            made.append(inner(content(1)))

    hook.act = other
    assert is_right(outer(content()))
    assert is_right(made[0], 1)


def test_nor_can_a_watch_or_a_finaliser(hook: Hook) -> None:
    run, refused = hook.compile(), []

    def again(*what: Any) -> None:
        with pytest.raises(RunError):
            run(content())
        refused.append(what)

    assert is_right(run(content(), watch=again))
    count = len(refused)
    assert count

    class Left:
        """Ends within a run."""

    left = [Left()]
    weakref.finalize(left[0], again)
    hook.act = left.clear
    assert is_right(run(content()))
    assert len(refused) == count + 1


# -- threads that end -------------------------------------------------------------------------------------


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def workers(before: set[threading.Thread]) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each not in before and each.name.startswith("graphir-")]


def all_end(threads: list[threading.Thread]) -> bool:
    for each in threads:
        each.join(LIMIT)
    return not any(each.is_alive() for each in threads)


@pytest.mark.parametrize("case", [SINGLE, PARALLEL], ids=lambda case: case.plan)
def test_threads_end_with_their_executable_though_a_result_is_held(case: Case, uncollected: None) -> None:
    before = set(threading.enumerate())
    graph = step_of(case)
    run = gi.compile(sharded_step_of(case) if case.mesh else graph, case.sizes, threads=3)
    result = run(start(graph, tuple(case.sizes.items())), batch(case.sizes, 0))
    started, gone = workers(before), weakref.ref(run)
    assert len(started) == 2
    del run
    assert gone() is None
    assert all_end(started)
    assert np.isfinite(result["L"])


def test_threads_end_after_a_run_that_failed(hook: Hook, uncollected: None) -> None:
    before = set(threading.enumerate())
    run = hook.compile()

    def fail() -> None:
        raise ZeroDivisionError

    hook.act = fail
    with pytest.raises(ZeroDivisionError):
        run(content())
    hook.act = lambda: None
    assert is_right(run(content()))
    started = workers(before)
    assert len(started) == 1
    del run
    assert all_end(started)


def test_an_executable_in_a_cycle_ends_when_it_is_collected(hook: Hook) -> None:
    before = set(threading.enumerate())
    cycle: list[Executable | list[Any]] = [hook.compile()]
    cycle.append(cycle)
    cycle[0](content())  # type: ignore[operator]
    started = workers(before)
    assert len(started) == 1
    del cycle
    gc.collect()
    assert all_end(started)


def test_where_the_system_starts_no_more_threads_the_error_says_so(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    before, run = set(threading.enumerate()), hook.compile(threads=3)
    usual, started = threading.Thread.start, []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        usual(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_one)
        with pytest.raises(ConfigError, match=r"a run on 3 threads needs 2 more, .* compile with threads=1"):
            run(content())
    assert all_end(started)
    assert is_right(run(content()))
    assert len(workers(before)) == 2


def test_buffers_that_nobody_holds_any_more_are_not_hoarded() -> None:
    bound: list[Any] = []
    buffers = ResultBuffers((4,), "float32", bound.append)
    lent = []
    for _ in range(5):
        buffers.renew()
        lent.append(buffers.lend())
    del lent[1:]
    buffers.renew()
    assert len({array.ctypes.data for array in bound}) == 5
    gone = [weakref.ref(array) for array in bound]
    bound.clear()
    assert sum(each() is not None for each in gone) == 2
