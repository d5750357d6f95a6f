"""What is sampled in the quick run is whole in the quick and the slow one together."""

from __future__ import annotations

import itertools
from typing import Any

from tests.support.sampled import sampled

CHOICES: dict[str, Any] = {"level": ["masks", "full", "nothing"], "tied": [True, False]}


def quick(*count: int) -> list[Any]:
    names, parameters = sampled(*count, **CHOICES).args
    assert names == ("level", "tied")
    assert [each.values for each in parameters] == list(itertools.product(*CHOICES.values()))
    assert all([mark.name for mark in each.marks] in ([], ["slow"]) for each in parameters)
    return [each.values for each in parameters if not each.marks]


def test_each_value_is_in_the_quick_run() -> None:
    found = quick()
    assert len(found) == 3
    assert {level for level, _ in found} == {"masks", "full", "nothing"}
    assert {tied for _, tied in found} == {True, False}


def test_of_three_choices_any_two_values_meet_and_what_is_quick_is_there() -> None:
    choices = {**CHOICES, "seed": [*range(7)], "name": ["one", "two"]}
    names, parameters = sampled(9, **choices).args
    found = [dict(zip(names, each.values, strict=True)) for each in parameters]
    assert len(found) < 30 < 3 * 2 * 7 * 2
    for one, other in itertools.combinations(choices, 2):
        met = {(each[one], each[other]) for each in found}
        assert met == set(itertools.product(choices[one], choices[other]))
    assert sum(not each.marks for each in parameters) == 9


def test_as_many_are_in_the_quick_run_as_are_asked_for() -> None:
    assert quick(1) == [("masks", True)]
    assert quick(2) == [("masks", True), ("full", False)]
    assert len(quick(6)) == 6
