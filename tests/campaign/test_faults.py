"""Faults put into the fast path on purpose: the proof of programs, or the campaign's numbers, find each of them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.campaign.faults import FAULTS
from tests.campaign.hunt import BUDGET, hunt
from tests.support.sampled import sampled

#: What is no fault of a program that has been written: what a row without keys means, which kernel is taken for which,
#: what is handed out, how arguments are bound, what a node's calls make of its operands; and what compiling refuses by
#: itself.
BY_NUMBERS = {
    "a row without keys is spread over the tile's",
    "an attribute is left out of a kernel's key",
    "a mask begins a column late",
    "a result is written where an operand is read later",
    "a fetched argument is the program's own buffer",
    "a view stays where its argument was",
    "factors are the same by their position",
}
#: After how many graphs each is found at the latest, and one that takes a dim split in two ways of one length.
SOON = 20
RARE = {"factors are the same by their position": 80}


@sampled(5, name=list(FAULTS))
def test_a_fault_is_found(name: str) -> None:
    caught = hunt(name)
    assert caught is not None, f"{BUDGET} graphs do not show it"
    assert caught.by == ("numbers" if name in BY_NUMBERS else "proof"), caught.said
    assert caught.graphs <= RARE.get(name, SOON)


@pytest.mark.slow
def test_without_a_fault_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAULTS, "none", nullcontext)
    assert hunt("none", 6) is None
