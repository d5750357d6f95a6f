"""Whatever breaks into a run of an executable, an interrupt between any two lines of it, the next run is right."""

from __future__ import annotations

import gc
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir import backends
from graphir.backends.blas import find_blas, single_threaded_blas
from graphir.errors import RunError
from graphir.ir.collector import without_collector
from tests.support.hooked import Hook, content, hooked, is_right
from tests.support.processes import LIMIT
from tests.support.sharding_cases import Case, batch, sharded_step_of, step_of

BACKENDS = str(Path(backends.__file__).parent)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with hooked() as made:
        yield made


def interrupted(work: Callable[[], object], line: int, folder: str = BACKENDS) -> bool:
    """Carries out `work`, with an interrupt before that line of those in `folder`; False if it has no so many."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_back is not None and "__del__" in (frame.f_code.co_name, frame.f_back.f_code.co_name):
            return None  # from there no exception leads out
        if not frame.f_code.co_filename.startswith(folder):
            return None
        # A `with` is left and its lock let go in one go, which only a trace can come between.
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not text.startswith("with "):
            seen += 1
            if seen > line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def settings() -> tuple[bool, int | None]:
    blas = find_blas()
    return gc.isenabled(), blas and blas.threads


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_after_an_interrupt_anywhere_the_next_run_is_right(hook: Hook, threads: int) -> None:
    before, run, line = settings(), hook.compile(threads), 0
    one, other = content(0), content(1)
    while True:
        # Held, so that what is interrupted has results and arguments to bind; and let go of, as if nothing had been.
        held = run(one)
        if not interrupted(lambda: run(other), line):
            break
        del held
        assert is_right(run(one)), line
        assert is_right(run(other), 1), line
        assert settings() == before
        line += 1
    assert line > 100
    assert is_right(held)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["megatron", "data"])
def test_so_it_is_of_simulated_ranks_and_donated_state(plan: str) -> None:
    case = Case(plan, (("tp" if plan == "megatron" else "dp", 2),))
    graph, inputs = step_of(case), batch(case.sizes, 0)
    run = gi.compile(sharded_step_of(case), case.sizes, donate=True, threads=2)

    def fresh() -> dict[str, Any]:
        return gi.initialize(graph, case.sizes)

    wanted = run(fresh(), inputs).updated()
    wanted = {name: np.array(array) for name, array in wanted.items()}
    line, step = 0, 1009
    while interrupted(lambda: run(fresh(), inputs), line):
        made = run(fresh(), inputs).updated()
        assert all(np.array_equal(made[name], array) for name, array in wanted.items()), line
        line += step
    assert line > 3 * step


def test_an_interrupt_of_the_first_run_leaves_what_it_has_made(hook: Hook) -> None:
    for line in range(0, 3000, 151):
        run = hook.compile()
        interrupted(lambda run=run: run(content()), line)
        assert is_right(run(content())), line


def test_when_a_run_has_been_interrupted_no_thread_works_for_it(hook: Hook) -> None:
    run, working, main = hook.compile(), [], threading.get_ident()

    def act() -> None:
        if threading.get_ident() == main:
            raise KeyboardInterrupt
        working.append("begun")
        working.append("ended")

    hook.act = act
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            run(content())
        assert working.count("begun") == working.count("ended")
    hook.act = lambda: None
    assert is_right(run(content()))


def test_an_interrupt_leaves_the_turn_to_others(hook: Hook) -> None:
    run, line, made = hook.compile(), 0, []
    run(content())
    folder = str(Path(BACKENDS) / "turns.py")
    while interrupted(lambda: run(content()), line, folder):
        other = threading.Thread(target=lambda: made.append(is_right(run(content(1)), 1)))
        other.start()
        other.join(LIMIT)
        line += 1
    assert made == [True] * line
    assert line >= 4


def test_settings_of_the_process_are_restored_by_whoever_comes_first() -> None:
    before = settings()

    @without_collector
    def work() -> None:
        with single_threaded_blas():
            pass

    for folder in (BACKENDS, str(Path(gi.__file__).parent / "ir")):
        line = 0
        while interrupted(work, line, folder):
            assert settings() == before, (folder, line)
            line += 1
        assert line > 5


def test_a_failure_in_either_thread_is_told_as_it_is(hook: Hook) -> None:
    run, main = hook.compile(), threading.get_ident()

    def fail(here: bool) -> None:
        if (threading.get_ident() == main) is here:
            raise ZeroDivisionError(str(here))

    for here in (True, False) * 3:
        hook.act = lambda here=here: fail(here)
        with pytest.raises(ZeroDivisionError, match=str(here)):
            run(content())
        hook.act = lambda: None
        assert is_right(run(content()))
    hook.act = lambda: run(content())
    with pytest.raises(RunError):
        run(content())
