"""A forked child has executables of its own: threads, turns and the settings of BLAS and the collector."""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graphir.backends.blas import find_blas, single_threaded_blas
from graphir.backends.turns import Turn, turn_of_a_rank
from graphir.errors import RunError
from graphir.ir.collector import without_collector
from tests.support.hooked import Hook, content, hooked, is_right
from tests.support.processes import LIMIT

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning"),
]


@pytest.fixture
def hook() -> Iterator[Hook]:
    with hooked() as made:
        yield made


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns, or raises, in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = True, work()
        except BaseException as error:
            told = False, error
        os.write(writing, pickle.dumps(told))
        os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as stream:
            if not select.select([stream], [], [], LIMIT)[0]:
                raise TimeoutError("the child does not come back")
            fine, made = pickle.load(stream)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not fine:
        raise made
    return made


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_child_runs_what_its_parent_has_run(hook: Hook, threads: int) -> None:
    run = hook.compile(threads=threads)
    assert is_right(run(content()))
    assert in_child(lambda: [is_right(run(content(seed)), seed) for seed in range(3)]) == [True] * 3
    assert in_child(lambda: in_child(lambda: is_right(run(content(1)), 1)))
    assert is_right(run(content(2)), 2)


def test_a_child_runs_what_it_compiles_itself(hook: Hook) -> None:
    hook.compile()(content())
    assert in_child(lambda: is_right(hook.compile()(content())))


def test_a_child_that_is_forked_while_another_thread_runs(hook: Hook) -> None:
    run, inside, leave = hook.compile(), threading.Event(), threading.Event()
    assert is_right(run(content(1)), 1)

    def wait() -> None:
        inside.set()
        assert leave.wait(LIMIT)

    hook.act = wait
    made: list[Any] = []
    other = threading.Thread(target=lambda: made.append(run(content())))
    other.start()
    assert inside.wait(LIMIT)

    def work() -> list[bool]:
        hook.act = lambda: None
        return [is_right(run(content(seed)), seed) for seed in (1, 0)]

    try:
        assert in_child(work) == [True, True]
    finally:
        leave.set()
        other.join(LIMIT)
    assert is_right(made[0])


def test_a_run_does_not_go_on_in_a_child_that_its_own_kernel_forks(hook: Hook) -> None:
    run, main = hook.compile(), threading.get_ident()
    is_right(run(content()))
    told: list[Any] = []
    reading, writing = os.pipe()

    def fork() -> None:
        if threading.get_ident() == main and not told:
            told.append(os.fork())

    hook.act = fork
    try:
        first = run(content())
    except BaseException as error:
        if told == [0]:
            hook.act = lambda: None
            os.write(writing, pickle.dumps((type(error), str(error), is_right(run(content(1)), 1))))
            os._exit(0)
        raise
    if told == [0]:
        os._exit(1)
    os.close(writing)
    with open(reading, "rb") as stream:
        assert select.select([stream], [], [], LIMIT)[0]
        kind, text, again = pickle.load(stream)
    os.waitpid(told[0], 0)
    assert issubclass(kind, RunError)
    assert text == "the process was forked in the middle of a run, which cannot go on in the child"
    assert again
    assert is_right(first)


def test_settings_of_the_process_that_another_thread_has_changed_are_restored() -> None:
    inside, leave = threading.Event(), threading.Event()

    @without_collector
    def hold() -> None:
        with single_threaded_blas():
            inside.set()
            assert leave.wait(LIMIT)

    def settings() -> tuple[bool, int | None]:
        blas = find_blas()
        return gc.isenabled(), blas and blas.threads

    before = settings()
    other = threading.Thread(target=hold)
    other.start()
    assert inside.wait(LIMIT)
    try:
        assert settings()[0] is False
        assert in_child(settings) == before
        assert in_child(lambda: _held_and_left(settings)) == before
    finally:
        leave.set()
        other.join(LIMIT)
    assert settings() == before


def _held_and_left(settings: Callable[[], Any]) -> Any:
    with single_threaded_blas():
        pass
    without_collector(lambda: None)()
    return settings()


def test_what_a_child_cannot_run_it_refuses() -> None:
    turn, apart = Turn("the executable of g", "CUDA does not go along"), turn_of_a_rank()
    assert [each.take(lambda: 1) for each in (turn, apart)] == [1, 1]
    with pytest.raises(RunError) as caught:
        in_child(lambda: turn.take(lambda: 1))
    assert str(caught.value) == (
        "the executable of g cannot run in a process that was forked from its own: CUDA does not go along"
    )
    with pytest.raises(RunError, match=r"one of several ranks cannot run .* forked .* a child is no rank"):
        in_child(lambda: apart.take(lambda: 1))
