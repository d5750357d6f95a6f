"""Mutants: what is changed, that it is changed in one process alone, and what becomes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import mutants as runner
from tests.campaign.mutants import Fate, all_mutants, main, read_equivalents, report
from tests.campaign.mutations import Mutant, changed_tree, described, find_path, mutants, sample
from tests.support.paths import ROOT

SOURCE = '''"""A module."""

LEAST: int = 4


def clip(values: list[int], start: int) -> list[int]:
    """Not 3, which is text."""
    found = values[start:]
    found.sort()
    total = len(found) + 2
    if total < LEAST and values:
        raise ValueError(f"at least {LEAST + 1}")
    return [min(each, 9) for each in found]
'''


def _described(source: str = SOURCE) -> list[Mutant]:
    return [described(mutant, source) for mutant in mutants("module", source)]


def test_every_kind_of_change_is_made() -> None:
    changes = {(mutant.kind, mutant.line, mutant.was, mutant.now) for mutant in _described()}
    assert ("integer", 3, "LEAST: int = 4", "LEAST: int = 5") in changes
    assert ("integer", 3, "LEAST: int = 4", "LEAST: int = 3") in changes
    assert ("integer", 8, "found = values[start:]", "found = values[start + 1:]") in changes
    assert ("deleted", 9, "found.sort()", "pass") in changes
    assert ("exchanged", 10, "total = len(found) + 2", "total = len(found) - 2") in changes
    assert ("comparison", 11, "if total < LEAST and values:", "if total <= LEAST and values:") in changes
    assert ("exchanged", 11, "if total < LEAST and values:", "if total < LEAST or values:") in changes
    kept = "return [%s(each, 9) for each in found]"
    assert ("exchanged", 13, kept % "min", kept % "max") in changes
    assert any(kind == "swapped" and line == 10 for kind, line, _, _ in changes)


def test_texts_errors_and_annotations_are_spared() -> None:
    assert not [mutant for mutant in _described() if mutant.line in (1, 6, 7, 12)]


def test_statements_that_do_not_depend_on_each_other_are_not_exchanged() -> None:
    source = "def f(a, b):\n    x = a\n    y = b\n    z = y\n    return x, z\n"
    assert [mutant.line for mutant in mutants("module", source) if mutant.kind == "swapped"] == [3]


def test_every_mutant_is_another_program_that_compiles() -> None:
    for mutant in _described():
        assert mutant.was != mutant.now
        compile(changed_tree(SOURCE, mutant.number), "module", "exec")


def test_a_sample_is_spread_over_kinds_and_follows_from_its_seed() -> None:
    found = all_mutants(["graphir.backends.compiled.buffers", "graphir.passes.cse"])
    some = sample(found, 20, seed=1)
    assert len(set(some)) == 20
    assert some == sample(found, 20, seed=1) != sample(found, 20, seed=2)
    assert {mutant.kind for mutant in some} == {mutant.kind for mutant in found}
    assert {mutant.module for mutant in some} == {"graphir.backends.compiled.buffers", "graphir.passes.cse"}


@pytest.mark.slow
def test_a_module_is_changed_in_one_process_and_nowhere_on_disk() -> None:
    module = "graphir.backends.compiled.buffers"
    path = find_path(module)
    before = path.read_bytes()
    chosen = next(each for each in all_mutants([module]) if described(each, before.decode()).now == "_CHUNK = 5 << 20")
    script = (
        f"from tests.campaign.mutations import Changed\nChanged({module!r}, {chosen.number}).install()\n"
        f"from {module} import _CHUNK\nprint(_CHUNK >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "5\n"
    assert path.read_bytes() == before


# -- what becomes of them ---------------------------------------------------------------------------------

_ALIVE, _KILLED, _HARMLESS = (
    Mutant("m", "m.py", "integer", line, line, f"was{line}", f"now{line}") for line in (1, 2, 3)
)


def test_who_lives_is_listed_and_who_is_harmless_with_the_reason() -> None:
    fates = [
        Fate(_ALIVE, False, 9, ""),
        Fate(_KILLED, True, 4, "NaN"),
        Fate(_HARMLESS, False, 9, "", "it is dead code"),
        Fate(_KILLED, True, 9, "FAILED tests/test_arena.py", tested=True),
    ]
    text = report(fates, 60)
    assert "4 mutants in 1 minutes: 1 killed by the campaign, half of them within 4 graphs" in text
    assert "1 by tests alone; 1 harmless, for a reason; 1 alive." in text
    assert "| integer | 4 | 1 | 1 | 1 | 1 |" in text
    assert "## Alive\n\n- m.py:1 integer: 'was1' is now 'now1'\n" in text
    assert "- m.py:3 integer: 'was3' is now 'now3': it is dead code" in text


def test_equivalents_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "equivalents.toml"
    path.write_text('[[equivalent]]\nmodule = "m"\nwas = "a"\nnow = "b"\nreason = "why"\n', encoding="utf-8")
    assert read_equivalents(path) == {("m", "a", "b"): "why"}
    assert read_equivalents(tmp_path / "none") == {}


@pytest.mark.parametrize("lives", [True, False])
def test_the_exit_status_says_whether_one_lives(
    lives: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fate(mutant: Mutant | None, *budget: object) -> tuple[bool, int, str]:
        return (mutant is not None and not lives), 3, "other numbers"

    monkeypatch.setattr(runner, "try_mutant", fate)
    assert main(["graphir.backends.compiled.buffers", "--count", "4"]) == int(lives)
    assert ("ALIVE" in capsys.readouterr().out) == lives


def test_nothing_is_tried_on_a_campaign_that_departs_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "try_mutant", lambda *_: (True, 1, "other numbers"))
    assert main(["graphir.backends.compiled.buffers", "--count", "4"]) == 1
    assert "mend that first" in capsys.readouterr().out


@pytest.mark.slow
def test_a_mutant_that_counts_is_killed() -> None:
    """A sum by a product that is never recorded is seen by the first graphs."""
    mutant = next(each for each in all_mutants(["graphir.backends.numpy.sums"]) if each.kind == "deleted")
    killed, graphs, by = runner.try_mutant(mutant, 0, 60, 300.0, None)
    assert killed, by
    assert 0 < graphs <= 60, by
