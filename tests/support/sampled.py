"""Parametrization of which some is in the quick run, and all of it in the slow one's and the quick one's together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from graphir.ir.operator import Operator


def sampled(quick: int = 0, /, **choices: Sequence[Any]) -> pytest.MarkDecorator:
    """All combinations of the choices. Of these `quick` are in the quick run; not told how many, all values are in one.

    They are the first values of all choices together, the second ones, and so on, around and around.
    """
    ranges = [range(len(values)) for values in choices.values()]
    chosen = {tuple(i % len(each) for each in ranges) for i in range(quick or max(map(len, ranges)))}
    parameters = [
        pytest.param(
            *(values[i] for i, values in zip(indices, choices.values(), strict=True)),
            id="-".join(_word(values[i]) for i, values in zip(indices, choices.values(), strict=True)),
            marks=() if indices in chosen else pytest.mark.slow,
        )
        for indices in itertools.product(*ranges)
    ]
    return pytest.mark.parametrize(tuple(choices), parameters)


def _word(value: Any) -> str:
    return value.key if isinstance(value, Operator) else str(value)
