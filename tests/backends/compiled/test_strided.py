"""How arrays lie: transposed and reshaped as NumPy does, a copy exactly where NumPy copies."""

from __future__ import annotations

import math
from random import Random

import numpy as np

from graphir.backends.compiled.strided import StridedLayout, view_of


def _shape_of(random: Random, elements: int) -> tuple[int, ...]:
    """Some shape of so many elements."""
    shape = []
    for _ in range(random.randint(0, 3)):
        shape.append(random.choice([d for d in range(1, elements + 1) if elements % d == 0]))
        elements //= shape[-1]
    shape.append(elements)
    random.shuffle(shape)
    return tuple(shape)


def test_a_reshape_is_a_view_where_it_is_one_of_numpys() -> None:
    random = Random(0)
    copies = 0
    for _ in range(5000):
        whole = [random.choice((1, 1, 2, 3, 4, 6)) for _ in range(random.randint(1, 4))]
        part = [random.randint(1, size) for size in whole]
        order = random.sample(range(len(whole)), len(whole))
        array = np.zeros(whole, np.int8)[tuple(slice(0, size) for size in part)].transpose(order)
        shape = _shape_of(random, math.prod(part))
        wanted = array.reshape(shape)
        made = view_of(
            StridedLayout.contiguous(whole).part(part).transpose(order), lambda x, shape=shape: x.reshape(shape)
        )
        assert (made is not None) == np.may_share_memory(wanted, array)
        if made is None:
            copies += 1
            continue
        assert made.shape == shape
        steps = zip(made.strides, wanted.strides, shape, strict=True)
        assert all(mine == theirs for mine, theirs, size in steps if size > 1)
    assert 500 < copies < 4500
