"""Parametrization of which some is in the quick run, and all of it in the slow one's and the quick one's together.

All of it is, of one or two choices, every combination; of more, a few in which any two values meet (`pairs`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from graphir.ir.operator import Operator
from tests.support.pairs import pairwise


def sampled(quick: int = 0, /, **choices: Sequence[Any]) -> pytest.MarkDecorator:
    """Combinations of the choices. Of these `quick` are in the quick run; not told how many, all values are in one.

    They are the first values of all choices together, the second ones, and so on, around and around.
    """
    ranges = [range(len(values)) for values in choices.values()]
    chosen = around(ranges, quick or max(map(len, ranges)))
    if len(choices) > 2:
        kept = {*chosen, *(tuple(each.values()) for each in pairwise(dict(zip(choices, ranges, strict=True))))}
    else:
        kept = set(itertools.product(*ranges))
    parameters = [
        pytest.param(
            *(values[i] for i, values in zip(indices, choices.values(), strict=True)),
            id="-".join(_word(values[i]) for i, values in zip(indices, choices.values(), strict=True)),
            marks=() if indices in chosen else pytest.mark.slow,
        )
        for indices in sorted(kept)
    ]
    return pytest.mark.parametrize(tuple(choices), parameters)


def around(ranges: Sequence[range], count: int) -> set[tuple[int, ...]]:
    """The first of all, the second of all, and so on, around and around."""
    return {tuple(i % len(each) for each in ranges) for i in range(count)}


def _word(value: Any) -> str:
    return value.key if isinstance(value, Operator) else str(value)
