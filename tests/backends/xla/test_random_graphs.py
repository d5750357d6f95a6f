"""Random graphs of the campaign on XLA, on one device and on one for each rank, against the interpreter."""

from __future__ import annotations

import random

import pytest

from tests.campaign.draw import draw
from tests.campaign.trial import UnfitError, attempt, refer
from tests.campaign.ways import draw_ways
from tests.support import xla  # noqa: F401  which has devices

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_graphs_compute_the_same(first: int) -> None:
    tried = 0
    for seed in range(first, first + 10):
        case = draw(seed)
        try:
            known = refer(case)
            for way in draw_ways(random.Random(seed), case, xla=True):
                if way.executor.startswith("xla"):
                    outcome = attempt(case, way, known)
                    assert outcome.departure is None, f"seed {seed}, {way.as_dict()}: {outcome.departure}"
                    tried += outcome.comparisons > 0
        except UnfitError:
            continue
    assert tried >= 5
