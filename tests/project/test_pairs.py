"""Any two values of two choices meet in a case: of a few choices, and of what communicators are held to."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from tests.support.conformance import CHOICES, MESHES, NEVER, cases
from tests.support.pairs import pairwise


def missing(
    choices: Mapping[str, Sequence[Any]], found: Collection[Mapping[str, Any]], never: Collection[Any] = ()
) -> list[Any]:
    """The pairs that no case has, written out without `pairwise`."""
    return [
        (one, x, other, y)
        for one, other in itertools.combinations(choices, 2)
        for x, y in itertools.product(choices[one], choices[other])
        if (x, y) not in never and not any(each[one] == x and each[other] == y for each in found)
    ]


@pytest.mark.parametrize("widths", [(2, 2), (3, 1), (2, 2, 2), (5, 3, 6, 2), (4, 4, 4, 4, 4), (2,) * 6], ids=str)
def test_all_pairs_are_there_in_few_cases(widths: tuple[int, ...]) -> None:
    choices = {f"c{i}": tuple(range(width)) for i, width in enumerate(widths)}
    found = pairwise(choices)
    assert not missing(choices, found)
    assert [list(each) for each in found] == [list(choices)] * len(found)
    first, second = sorted(widths)[-2:]
    assert first * second <= len(found) <= 2 * first * second


def test_one_choice_is_taken_whole() -> None:
    assert pairwise({"dtype": ("float32", "bool")}) == [{"dtype": "float32"}, {"dtype": "bool"}]


def test_what_never_meets_does_not() -> None:
    choices = {"reduce": ("sum", "mean"), "dtype": ("float32", "bool"), "strided": (False, True)}
    found = pairwise(choices, {("mean", "bool")})
    assert not missing(choices, found, {("mean", "bool")})
    assert not [each for each in found if (each["reduce"], each["dtype"]) == ("mean", "bool")]


@pytest.mark.parametrize("case", CHOICES, ids=lambda case: case.__name__)
def test_communicators_are_held_to_every_pair(case: Any) -> None:
    meshes = {str(mesh): mesh for meshes in MESHES.values() for mesh in meshes}
    mine = [(mesh, run) for mesh, run in cases(meshes).values() if run.func is case]  # type: ignore[attr-defined]
    found = [{"place": mesh, **run.keywords} for mesh, run in mine]  # type: ignore[attr-defined]
    assert not missing({"place": tuple(meshes.values()), **CHOICES[case]}, found, NEVER)
    assert {each["place"] for each in found} == set(meshes.values())
