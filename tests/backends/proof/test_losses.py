"""What writing takes away from what lies in memory, held to each element's bytes counted one by one."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import numpy as np
import pytest

from graphir.backends.proof.boxes import Region
from graphir.backends.proof.lays import Lay
from graphir.backends.proof.losses import lost_of


def part(rng: random.Random, memory: Any) -> Any:
    """A part of the memory, seen with dims of its own, and its rows in gaps."""
    shape = rng.choice([(24,), (4, 6), (2, 3, 4), (3, 8), (2, 2, 6), (2, 2, 3, 2)])
    start = rng.randrange(memory.size - 23)
    array = memory[start : start + 24].reshape(shape)
    for dim, length in enumerate(shape):
        low = rng.randrange(length)
        cut = slice(low, rng.randint(low + 1, length), rng.choice((1, 1, 1, 2)))
        array = array[(slice(None),) * dim + (cut,)]
    return array.transpose(rng.sample(range(len(shape)), len(shape)))


def bytes_of(array: Any) -> set[int]:
    start = array.__array_interface__["data"][0]
    places = (
        start + sum(i * s for i, s in zip(index, array.strides, strict=True)) for index in np.ndindex(array.shape)
    )
    return {place + byte for place in places for byte in range(array.itemsize)}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_touched_is_lost_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        memory = np.empty(40, np.float32)
        held, other = part(rng, memory), part(rng, memory)
        if rng.random() < 0.3 and other.strides[-1] == 4:
            other = other.view(np.int16)
        bounds = tuple((first := rng.randrange(3), first + n) for n in held.shape)
        written = bytes_of(other)
        touched = {
            tuple(low + i for (low, _), i in zip(bounds, index, strict=True))
            for index in np.ndindex(held.shape)
            if written & bytes_of(held[tuple(slice(i, i + 1) for i in index)])
        }
        lost = Region()
        for box in lost_of(Lay.of(held), bounds, Lay.of(other)):
            lost.add(box)
        found = {index for box in lost.boxes for index in product(*(range(*each) for each in box))}
        assert found == touched


def test_many_rows_of_a_merged_dim() -> None:
    """Columns of heads written across rows of more than are looked at one by one."""
    held = np.empty((5000, 4, 6), np.float32)
    columns = held.reshape(5000, 24)[:, 9:17]
    boxes = lost_of(Lay.of(held), ((0, 5000), (0, 4), (0, 6)), Lay.of(columns))
    assert sorted(boxes) == [((0, 5000), (1, 2), (3, 6)), ((0, 5000), (2, 3), (0, 5))]
