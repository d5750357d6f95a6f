"""What the queries of a run see, where operands say it: positions, windows, documents, padding.

A *sight* is how that follows from arguments of the graph, by the rule that an operator declares (`Sees`). Before each
run it is looked at, block by block of queries and of keys; the keys between the first block and the last that have any
that is seen are what a tile of these queries has. Nothing is assumed of an order: positions that are mixed up show more
blocks, and what is computed of keys that are not seen is masked by the operator itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphir.backends.trace import Seen
from graphir.ir.attributes import Attributes
from graphir.ir.traits import Looks
from graphir.ir.value import Value

#: Keys are told apart in so many blocks, no more; and in so many by a run of few queries, so that from one token to the
#: next there is the same program.
_BLOCKS, _FEW = 16, 4

Range: TypeAlias = tuple[int, int]
#: What is seen, by how arguments say it.
Views: TypeAlias = "Mapping[Sight, Seen]"


@dataclass(frozen=True)
class Sight:
    """How arguments of the graph say what is seen: by a rule, under attributes; each operand's name, dims and value."""

    rule: Looks
    attributes: Attributes
    operands: tuple[tuple[str, tuple[str, ...], Value], ...]

    def look(self, arrays: Mapping[Value, Any], queries: int, keys: int) -> Seen | None:
        """What is seen of these arrays, told for `queries` at a time, and for blocks of `keys` at least."""
        sizes = {dim: n for _, dims, value in self.operands for dim, n in zip(dims, arrays[value].shape, strict=True)}
        if 0 in sizes.values():
            return None
        width = max(keys, -(-sizes["k"] // (_BLOCKS if sizes["q"] > queries else _FEW)))
        lows, highs = [], []
        for b in range(sizes["b"]):
            found = [self._keys(arrays, (b, b + 1), (q, q + queries), width) for q in range(0, sizes["q"], queries)]
            lows.append(tuple(low for low, _ in found))
            highs.append(tuple(high for _, high in found))
        return Seen(queries, sizes["k"], tuple(lows), tuple(highs))

    def _keys(self, arrays: Mapping[Value, Any], b: Range, q: Range, width: int) -> Range:
        """From the first block of keys that these queries see to the last; a block, too, if they see none."""
        parts = {"b": slice(*b), "q": slice(*q)}
        operands = {
            name: arrays[value][tuple(parts.get(dim, slice(None)) for dim in dims)]
            for name, dims, value in self.operands
        }
        seen = np.logical_or.reduce(self.rule(np, operands, self.attributes), axis=(0, 1))
        blocks = np.flatnonzero(np.logical_or.reduceat(seen, range(0, len(seen), width)))
        if not len(blocks):
            return 0, min(width, len(seen))
        return int(blocks[0]) * width, min(int(blocks[-1] + 1) * width, len(seen))


def keys_of(seen: Seen, b: Range | None, q: Range) -> Range:
    """The keys that queries `q` of sequences `b`, of all without it, see between them."""
    blocks = slice(q[0] // seen.queries, -(-q[1] // seen.queries))
    rows = slice(None) if b is None else slice(*b)
    low = min(min(each[blocks]) for each in seen.lows[rows])
    return low, max(max(each[blocks]) for each in seen.highs[rows])
