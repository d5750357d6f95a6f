"""The attacks, a few trials of each from a fixed seed; `python -m tests.attack --minutes 60` does more of them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack import __main__ as command
from tests.attack import run as module
from tests.attack.attacks import ATTACKS, available, load_attack
from tests.attack.outcome import HangError, LossError, RawError, limited
from tests.attack.report import Tally, page
from tests.attack.run import Run

#: So many trials of each take about half a minute together.
TRIALS = {"files": 200, "kills": 2, "folders": 1, "disk": 2, "signals": 2}


@pytest.mark.slow
@pytest.mark.parametrize("attack", TRIALS)
def test_nothing_happens_that_must_not(attack: str) -> None:
    run = Run(seed=2026)
    run.for_rounds({attack: TRIALS[attack]})
    assert run.found == []
    assert sum(counts.total() for counts in run.tally.outcomes.values()) == TRIALS[attack]


# -- the harness itself ----------------------------------------------------------------------------------------


def test_every_attack_has_a_module_of_its_name() -> None:
    for name in available():
        assert callable(load_attack(name))
    assert set(TRIALS) <= set(available()) <= set(ATTACKS)


def failing(seed: int) -> Iterator[tuple[str, str]]:
    """Two trials that end well, then one that does not, by its seed."""
    yield "a door", "shut"
    yield "a door", "shut"
    match seed % 3:
        case 0:
            raise LossError("a door", "it was open")
        case 1:
            raise KeyError("tp")
        case 2:
            yield "a window", "shut"


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_attack", lambda name: failing)


@pytest.mark.usefixtures("doors")
def test_what_must_not_happen_is_counted_told_and_gone_on_from() -> None:
    told: list[str] = []
    run = Run(told=lambda found: told.append(str(found)))
    run.for_rounds({"files": 8})
    # Seeds are so far apart that their remainders are 0, 1, 2.
    assert [found.error.column for found in run.found] == ["losses", "raw errors"]
    assert told[0] == "files, losses: a door: it was open\n  python -m tests.attack --seed 0 --rounds files=3"
    assert "KeyError: 'tp'" in told[1]
    assert run.tally.rows() == [
        ["files", "a door", "7", "shut 6", "0", "1", "0"],
        ["files", "files", "1", "", "1", "0", "0"],
    ]


@pytest.mark.usefixtures("doors")
def test_by_time_each_attack_has_a_trial_at_least() -> None:
    run = Run(seed=2)
    run.for_seconds(["files", "kills"], 0.0)
    assert {attack for attack, _ in run.tally.outcomes} == {"files", "kills"}


@pytest.mark.usefixtures("doors")
def test_a_page_keeps_the_rows_of_what_was_not_run(tmp_path: Path) -> None:
    path = tmp_path / "attack.md"
    assert command.main(["--rounds", "files=3", "--seed", "2", "--markdown", str(path)]) == 0
    assert command.main(["--rounds", "kills=3", "--seed", "2", "--markdown", str(path)]) == 0
    both = path.read_text()
    assert both.count("| a window | 1 | shut 1 | 0 | 0 | 0 |") == 2
    assert both.count("`python -m tests.attack --rounds") == 2
    assert str(tmp_path) not in both
    assert command.main(["--rounds", "files=3", "--seed", "0", "--markdown", str(path)]) == 1
    text = path.read_text()
    assert text.count("| a window | 1 | shut 1 | 0 | 0 | 0 |") == 1
    assert "## What must not happen, and has" in text
    assert "it was open" in text


def test_an_empty_page() -> None:
    assert page(Tally(), "python -m tests.attack", []).startswith("# Attacks\n")


def test_what_hangs_is_found_out() -> None:
    def hang() -> None:
        with limited("a door", 0.01, "a knot"):
            while True:
                pass

    with pytest.raises(HangError, match=r"no end within 0\.01 s: a knot"):
        hang()


def test_what_a_process_has_found_comes_back_from_it() -> None:
    found = pickle.loads(pickle.dumps(RawError("texts", "a traceback")))
    assert (type(found), str(found), found.target) == (RawError, "texts: a traceback", "texts")
