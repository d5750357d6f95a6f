"""Integers out of range, ids above all: they would read or write past a buffer, and are refused where they come in."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.backends.arrays import is_on_device, to_numpy
from graphir.backends.effects import writes
from graphir.errors import InputError
from graphir.ir.graph import Node


@writes()
def check_indices(node: Node, position: int, indices: Any, count: int | None, exempt: int | None) -> None:
    """InputError if `indices`, the operand of `node` at `position`, are not all from 0 to `count` − 1, but for `exempt`
    ones; without a `count`, if one is negative."""
    if indices.size == 0:
        return
    if count is None:
        count = 1 << 62
    if is_on_device(indices):
        found = (indices < 0) | (indices >= count)
        # One question, and only what is wrong is brought home.
        if not (found if exempt is None else found & (indices != exempt)).any():
            return
        indices = to_numpy(indices)
    indices = np.asarray(indices)
    if indices.min() >= 0 and indices.max() < count:
        return
    wrong = (indices < 0) | (indices >= count)
    if exempt is not None:
        wrong &= indices != exempt
    places = np.argwhere(wrong)
    if not len(places):
        return
    rule, factors, _ = node.inference
    operand, value, place = rule.inputs[position], node.inputs[position], tuple(int(i) for i in places[0])
    if operand.indexes is None:
        where = list(place) or ""
        raise InputError(
            f"{value.name}{where} = {int(indices[place])}, and {node.name} = {node.operator.key}(…) counts from 0"
        )
    also = f", or {exempt} to be ignored" if exempt is not None else ""
    raise InputError(
        f"{value.name}{list(place)} = {int(indices[place])} is out of range: {node.name} = "
        f"{node.operator.key}(…) needs ids from 0 to {count - 1} ({factors[operand.indexes]} = {count}){also}"
    )
