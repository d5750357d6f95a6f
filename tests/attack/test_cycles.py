"""Compiling and running over and over leaves nothing behind: no thread, no object, no memory."""

from __future__ import annotations

import gc
import itertools
import threading

import pytest

import graphir as gi
from tests.attack import cycles as attack
from tests.attack.cycles import Flat, cycles
from tests.attack.outcome import LossError
from tests.campaign.draw import draw
from tests.support.sampled import sampled


@pytest.mark.slow
@sampled(1, options=[{"threads": 2, "check": True}, {"threads": 2}, {"backend": "reference"}])
def test_what_is_compiled_again_leaves_no_object(options: dict[str, object]) -> None:
    def cycle() -> int:
        for seed in (3, 5, 11):
            case = draw(seed)
            run = gi.compile(case.sharded if case.mesh else case.program, case.bound, **options)  # type: ignore[arg-type]
            run(case.arrays())
        del run, case
        for each in threading.enumerate():
            if each.name.startswith("graphir-"):
                each.join(60)
        gc.collect()
        return len(gc.get_objects())

    for _ in range(3):
        cycle()
    counts = [cycle() for _ in range(3)]
    assert counts[0] == counts[-1], counts


def test_cycles_come_out_right() -> None:
    ways = {way for way, _ in itertools.islice(cycles(138), 27)}
    assert ways == {"run", "threads", "fork", "fail", "cycle", "step"}


@pytest.mark.slow
def test_growth_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack, "WINDOW", 5)
    kept: list[list[int]] = []
    even, growing = Flat(2, 0.05), Flat(2, 0.05)

    def grow() -> None:
        for _ in range(30):
            kept.extend([] for _ in range(10_000))
            growing.note("in the end")

    for _ in range(30):
        even.note("")
    with pytest.raises(LossError, match=r"^cycles: in the end, Python holds .* blocks, and had"):
        grow()
