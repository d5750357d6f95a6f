"""What the queries of a run see, where operands say it: positions, windows, documents, padding.

A *sight* is how that follows from arguments of the graph, by the rule that an operator declares (`Sees`). Before each
run it is looked at, query by query, in steps of keys, of which the least and the greatest of what the rule is told of
are enough (`bounds`): what a block of queries sees lies between the first step and the last that one of them may see.
Nothing is assumed of an order: positions that are mixed up show more steps, and what is computed of keys that are not
seen is masked by the operator itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphir.backends.compiled.bounds import holds
from graphir.backends.inequalities import Bound, Rule
from graphir.backends.trace import Seen
from graphir.ir.attributes import Attributes
from graphir.ir.traits import Looks
from graphir.ir.value import Value

Range: TypeAlias = tuple[int, int]
#: So many entries of a mask are looked at at a time.
_ENTRIES = 1 << 20
#: Documents are of so many keys in the mean, or more.
_SHORTEST = 8
_LARGEST = 1 << 60
#: What a rule is told of, and what it tells.
_DIMS = ("b", "q", "k")
#: What is seen, by how arguments say it.
Views: TypeAlias = "Mapping[Sight, Seen]"


@dataclass(frozen=True)
class Sight:
    """How arguments of the graph say what is seen: by a rule, under attributes; each operand's name, dims and value.

    bounds   by which that is told of ranges of queries and keys; None where the rule is of another kind. Where there
             is none, or it says nothing of numbers as large, it is asked of each query and each key
    """

    rule: Looks
    attributes: Attributes
    operands: tuple[tuple[str, tuple[str, ...], Value], ...]
    bounds: Rule | None = field(default=None, compare=False)

    def look(self, arrays: Mapping[Value, Any], grain: int, step: int) -> Seen | None:
        """What is seen of these arrays, told for so many queries at a time in steps of keys; None where there are none.

        Of a block that sees nothing the first key is behind the last.
        """
        sizes = {dim: n for _, dims, value in self.operands for dim, n in zip(dims, arrays[value].shape, strict=True)}
        if 0 in sizes.values():
            return None
        count, width = sizes["k"], max(grain, _ENTRIES // sizes["k"] // grain * grain)
        lows, highs = [], []
        for b in range(sizes["b"]):
            queries = [(q, min(q + width, sizes["q"])) for q in range(0, sizes["q"], width)]
            parts = (self._steps(self._part(arrays, b, q), range(0, count, step)) for q in queries)
            shown = np.concatenate([np.logical_or.reduceat(each, range(0, len(each), grain)) for each in parts])
            first, last = shown.argmax(1), shown.shape[1] - shown[:, ::-1].argmax(1)
            some = shown.any(1)
            lows.append(tuple(np.where(some, first * step, count).tolist()))
            highs.append(tuple(np.where(some, np.minimum(last * step, count), 0).tolist()))
        return Seen(grain, count, tuple(lows), tuple(highs))

    def _part(self, arrays: Mapping[Value, Any], b: int, q: Range) -> dict[str, Any]:
        """The operands of some queries of a sequence."""
        parts = {"b": slice(b, b + 1), "q": slice(*q)}
        return {
            name: arrays[value][tuple(parts.get(dim, slice(None)) for dim in dims)]
            for name, dims, value in self.operands
        }

    def _steps(self, operands: Mapping[str, Any], steps: range) -> Any:
        """[queries, steps]: in which steps of keys there are such as each query may see."""
        if self.bounds is not None and all(
            abs(end) <= limit for n, limit in self.bounds.limits for end in _ends(operands[n])
        ):
            return self._told(self.bounds, operands, steps)
        (seen,) = self.rule(np, operands, self.attributes)
        return np.logical_or.reduceat(seen, steps, axis=1)

    def _told(self, rule: Rule, operands: Mapping[str, Any], steps: range) -> Any:
        """As `_steps`, by a rule that holds of these operands."""
        laid = {name: _laid(operands[name], dims) for name, dims, _ in self.operands}
        of_keys = [laid[n][0] for n, dims, v in self.operands if "k" in dims and "q" not in dims and v.dtype != "bool"]
        ranges = _ranges(of_keys, steps)
        bounds: dict[Bound, Any] = {}
        for name, dims, _ in self.operands:
            for greatest, of_range in ((False, np.minimum), (True, np.maximum)):
                array = laid[name]
                bounds[Bound(name, greatest)] = of_range.reduceat(array, ranges, axis=1) if "k" in dims else array
        count = max(len(array) for array in laid.values())
        seen = np.broadcast_to(holds(rule.may_see, bounds), (count, len(ranges)))
        if len(ranges) == len(steps):
            return seen
        return np.logical_or.reduceat(seen, np.searchsorted(ranges, steps), axis=1)


def _ends(array: Any) -> tuple[int, int]:
    return int(array.min()), int(array.max())


def _laid(array: Any, dims: Sequence[str]) -> Any:
    """What an operand says of a sequence, as integers [q, k], of length 1 along dims that it has not, and none so large
    that sums of them are none: of what is beyond, some may always be seen."""
    made = array.transpose([dims.index(dim) for dim in _DIMS if dim in dims])
    lengths = iter(made.shape)
    (found,) = made.reshape([next(lengths) if dim in dims else 1 for dim in _DIMS])
    return found.astype(np.int64).clip(-_LARGEST, _LARGEST)


def _ranges(of_keys: Sequence[Any], steps: range) -> Any:
    """Where ranges of keys begin of which the least and the greatest are told: with steps, and where numbers fall, as
    positions do where a document begins. Where they fall all the time there are no documents, and steps are enough."""
    falls = [np.flatnonzero(each[1:] < each[:-1]) + 1 for each in of_keys]
    if not 0 < sum(map(len, falls)) <= steps.stop // _SHORTEST:
        return np.array(steps)
    return np.unique(np.concatenate([steps, *falls]))


def keys_of(seen: Seen, b: Range | None, q: Range) -> Range:
    """The keys that queries `q` of sequences `b`, of all without it, see between them; the first one behind the last
    where they see none."""
    told = [(seen.lows[row][block], seen.highs[row][block]) for row, block in blocks_of(seen, b, q)]
    return min(low for low, _ in told), max(high for _, high in told)


def blocks_of(seen: Seen, b: Range | None, q: Range) -> Iterator[tuple[int, int]]:
    """The sequences, and the blocks of queries, of which it is told what these see."""
    rows = range(len(seen.lows)) if b is None else range(*b)
    return itertools.product(rows, range(q[0] // seen.queries, -(-q[1] // seen.queries)))
