"""The loss: cross entropy, and the mean of it (A 1.5, A 3.5)."""

from __future__ import annotations

from graphir.ir.value import Value
from graphir.models.dims import N_DP
from graphir.models.parts.frame import Frame
from graphir.operators import average, count_valid, cross_entropy, divide_by_count, reduce_sum, reshape


def mean_loss(frame: Frame, Z: Value, labels: Value) -> Value:
    """L, a scalar: the mean of CE(Z, Y) over the valid tokens, or of such means over N_DP parts of the batch."""
    dtype = frame.block.dtype
    Y = frame.checked(frame.block.alias("Y", labels))
    L_tok = cross_entropy(Z, Y, name="L_tok")
    if frame.usage.mean == "tokens":
        return divide_by_count(reduce_sum(L_tok, name="L_sum"), count_valid(Y, dtype=dtype, name="n"), name="L")
    parts, labels = (
        reshape(each, "(r b) s -> r b s", r=N_DP, name=name) for each, name in ((L_tok, "L_parts"), (Y, "Y_parts"))
    )
    n = count_valid(labels, by=1, dtype=dtype, name="n")
    return average(divide_by_count(reduce_sum(parts, (1, 2), name="L_sum"), n, name="L_replica"), name="L")
