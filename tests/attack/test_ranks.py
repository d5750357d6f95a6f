"""A few ranks are killed, stopped, misled and flipped, from a fixed seed; `python -m tests.attack` does more of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.attack.ranks import Trial, by_tcp, flipped, killed, otherwise, stopped_and_told_to_end
from tests.support.mpi import needs_mpi


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "size"), [(flipped, 4), (otherwise, 6), (by_tcp, 4), (killed, 6), (stopped_and_told_to_end, 2)]
)
def test_ranks_end_as_they_should(act: Callable[[Trial], tuple[str, str]], size: int, tmp_path: Path) -> None:
    """Anything else is an AttackError."""
    target, _ = act(Trial(Random(2026), size, tmp_path))
    assert target.startswith(f"{size} ranks by ")
