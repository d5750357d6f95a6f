"""Rules of the pieces that S, dS and CE are taken apart into where their rows [*b, v] are split over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.rules.shared import above_masked, record_shares, row_column, row_dots, row_sums
from graphir.operators.split_vocabulary import center, exp_sum, normalize, row_dot, row_max


@rules.emits(row_max)
def _row_max(call: Calls, Z: Array, top: Array) -> Any:
    if Z.size == 0:
        return False
    call(np.maximum.reduce, Z, -1, None, top)
    return None


@rules.emits(exp_sum)
def _exp_sum(call: Calls, Z: Array, top: Array, s: Array) -> None:
    powers = call.scratch(Z.shape, Z.dtype)
    call(np.subtract, Z, row_column(above_masked(call, top)), powers)
    call(np.exp, powers, powers)
    row_sums(call, powers, s)


@rules.emits(normalize, inplace={"P": "Z"})
def _normalize(call: Calls, Z: Array, top: Array, s: Array, P: Array) -> None:
    call(np.subtract, Z, row_column(above_masked(call, top)), P)
    call(np.exp, P, P)
    record_shares(call, P, s)


@rules.emits(row_dot)
def _row_dot(call: Calls, P: Array, dP: Array, c: Array) -> None:
    call(row_dots, P, dP, c)


@rules.emits(center, inplace={"dZ": "dP"})
def _center(call: Calls, P: Array, dP: Array, c: Array, dZ: Array) -> None:
    call(np.subtract, dP, row_column(c), dZ)
    call(np.multiply, dZ, P, dZ)
