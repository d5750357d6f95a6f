"""What is known before a run: numbers, and how the places of a tile lie to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.numpy.shared import number
from graphir.formula.evaluate import evaluate
from graphir.formula.places import Sum, sum_of
from graphir.formula.terms import COMPARISONS, Term, walk
from graphir.ir.operator import Place

_KINDS: Mapping[str, np.dtype[Any]] = {
    "wide": np.dtype("float64"),
    "int": np.dtype("int64"),
    "bool": np.dtype("bool"),
}


class Region(NamedTuple):
    """Columns, from one to before another."""

    start: int
    stop: int


class Known:
    """The arrays of terms that no operand has a part in, on a tile."""

    def __init__(
        self, call: Calls, order: Sequence[str], lengths: Mapping[str, int], place: Place, dtype: np.dtype[Any]
    ) -> None:
        self.call, self.order, self.lengths, self.place, self.dtype = call, tuple(order), lengths, place, dtype

    def array(self, term: Term) -> Array:
        """The array of a term, with an axis for each factor."""
        if term.operation == "number":
            return number(term.detail, self.dtype if term.kind == "float" else _KINDS[term.kind])
        leaves = [each for each in walk([term]) if not each.operands]
        used = {each for leaf in leaves for each in (leaf.detail if isinstance(leaf.detail, tuple) else (leaf.detail,))}
        factors = [factor for factor in self.order if factor in used]
        starts = [each.detail for each in leaves if each.operation == "start"]
        return self.call.constant(
            _evaluated,
            term,
            self.order,
            tuple((factor, self.lengths[factor]) for factor in factors if factor in self.lengths),
            tuple((factor, self.place.start(factor)) for factor in starts),
            tuple((factor, self.place.sizes[factor]) for factor in factors if factor in self.place.sizes),
            self.dtype.name,
        )

    def table(self, condition: Term, region: Region, seen: float, hidden: float, dtype: np.dtype[Any]) -> Array:
        """In the columns of a region, `seen` where a condition holds, and `hidden` where not."""
        compared = _compared(condition)
        if compared is None:
            holds = self.array(condition)
            part = holds[..., region.start : region.stop] if holds.shape[-1] > 1 else holds
            return np.where(part, number(seen, dtype), number(hidden, dtype))
        difference, sign = compared
        column = self.order[-1]
        first = difference.steps.get(column, 0) * region.start
        lengths = {**self.lengths, column: region.stop - region.start}
        shape = tuple(lengths[factor] if factor in difference.steps else 1 for factor in self.order)
        steps = tuple(difference.steps.get(factor, 0) for factor in self.order)
        offset = _offset(difference, self.place, self.lengths) + first
        return self.call.constant(_two, sign, steps, offset, shape, seen, hidden, dtype.name)


def region_of(condition: Term, order: Sequence[str], lengths: Mapping[str, int], place: Place) -> Region:
    """The columns in which a condition does not hold everywhere, or may not."""
    whole = Region(0, lengths[order[-1]])
    compared = _compared(condition)
    if compared is None or compared[1] not in ("less", "less_equal"):
        return whole
    difference, sign = compared
    step, largest = difference.steps.get(order[-1], 0), _offset(difference, place, lengths) + (sign == "less")
    largest += sum(max(0, count * (lengths[f] - 1)) for f, count in difference.steps.items() if f != order[-1])
    # It holds in column k where largest + step · k <= 0.
    if step == 0:
        return whole if largest > 0 else Region(0, 0)
    if step > 0:
        return Region(min(max(0, -largest // step + 1), whole.stop), whole.stop)
    return Region(0, min(max(0, -(-largest // -step)), whole.stop))


def _compared(condition: Term) -> tuple[Sum, str] | None:
    """What a comparison of places compares with 0; None where it is of anything else."""
    if condition.operation not in COMPARISONS or any(each.kind != "int" for each in condition.operands):
        return None
    difference = sum_of(condition.operands[0]).plus(sum_of(condition.operands[1]), -1)
    return None if difference.others else (difference, condition.operation)


def _offset(difference: Sum, place: Place, lengths: Mapping[str, int]) -> int:
    return difference.at(lambda key: place.start(key[1]) if key[0] == "start" else place.sizes[key[1]])


def _two(
    sign: str, steps: Sequence[int], offset: int, shape: Sequence[int], seen: float, hidden: float, dtype: str
) -> Array:
    """`seen` where an integer that grows by `steps` along the axes compares with 0, `hidden` elsewhere."""
    value = np.full((1,) * len(shape), offset)
    for axis, step in enumerate(steps):
        if step:
            value = value + step * np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    holds = getattr(np, sign)(value, 0)
    return np.where(holds, seen, hidden).astype(dtype)


def _evaluated(
    term: Term,
    order: tuple[str, ...],
    lengths: tuple[tuple[str, int], ...],
    starts: tuple[tuple[str, int], ...],
    totals: tuple[tuple[str, int], ...],
    dtype: str,
) -> Array:
    (made,) = evaluate(
        np, [term], order, dict(lengths), {}, dtype=dtype, starts=dict(starts), totals=dict(totals)
    )  # fmt: skip
    return np.asarray(made)
