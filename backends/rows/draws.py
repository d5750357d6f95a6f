"""Dropout's masks in a kernel: a draw for each element, by its number in the whole tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphir.backends.compiled.emission import Array
from graphir.backends.effects import writes
from graphir.backends.rows.expressions import Expression, Row
from graphir.ir.operator import Place
from graphir.operators.dropout import least_kept
from graphir.operators.special import stream_keys


@writes("keys")
def write_keys(seed: Array, step: Array, key: int, keys: Array) -> None:
    """The two keys of a node's draws of this step, uint32."""
    keys[:] = stream_keys(int(seed), int(step), key, 0)


def draw_mask(
    row: Row, seed: Expression, step: Expression, columns: Sequence[str], factors: Sequence[str], p: float
) -> Expression:
    """Whether elements of a tensor over `factors`, which has them in this order, are kept at the rate p."""

    def origin(at: Place) -> tuple[int, Mapping[str, int]]:
        first, stride, strides = 0, 1, {}
        for factor in reversed(factors):
            first += at.start(factor) * stride
            strides[factor] = stride
            stride *= at.sizes[factor]
        return first, strides

    return row.keep(seed, step, write_keys, origin, least_kept(p), each=not set(columns).isdisjoint(factors))
