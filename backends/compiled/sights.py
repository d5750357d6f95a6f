"""What the queries of a run see, where operands say it: positions, windows, documents, padding.

A *sight* is how that follows from arguments of the graph, by the rule that an operator declares (`Sees`). Before each
run it is looked at, block by block of queries and of keys: what is seen lies between the first block of keys and the
last that have any that is. Nothing is assumed of an order: positions that are mixed up show more blocks, and what is
computed of keys that are not seen is masked by the operator itself.
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

Range: TypeAlias = tuple[int, int]
#: What is seen, by how arguments say it.
Views: TypeAlias = "Mapping[Sight, Seen]"


@dataclass(frozen=True)
class Sight:
    """How arguments of the graph say what is seen: by a rule, under attributes; each operand's name, dims and value."""

    rule: Looks
    attributes: Attributes
    operands: tuple[tuple[str, tuple[str, ...], Value], ...]

    def look(self, arrays: Mapping[Value, Any], grain: int) -> Seen | None:
        """What is seen of these arrays, told for so many queries, and keys, at a time; None where there are none.

        A block that sees nothing has no keys, from 0 to 0.
        """
        sizes = {dim: n for _, dims, value in self.operands for dim, n in zip(dims, arrays[value].shape, strict=True)}
        if 0 in sizes.values():
            return None
        lows, highs = [], []
        for b in range(sizes["b"]):
            found = [self._keys(arrays, (b, b + 1), (q, q + grain), grain) for q in range(0, sizes["q"], grain)]
            lows.append(tuple(low for low, _ in found))
            highs.append(tuple(high for _, high in found))
        return Seen(grain, sizes["k"], tuple(lows), tuple(highs))

    def _keys(self, arrays: Mapping[Value, Any], b: Range, q: Range, grain: int) -> Range:
        """From the first block of keys that these queries see to the last."""
        parts = {"b": slice(*b), "q": slice(*q)}
        operands = {
            name: arrays[value][tuple(parts.get(dim, slice(None)) for dim in dims)]
            for name, dims, value in self.operands
        }
        seen = np.logical_or.reduce(self.rule(np, operands, self.attributes), axis=(0, 1))
        blocks = np.flatnonzero(np.logical_or.reduceat(seen, range(0, len(seen), grain)))
        return (int(blocks[0]) * grain, min(int(blocks[-1] + 1) * grain, len(seen))) if len(blocks) else (0, 0)


def keys_of(seen: Seen, b: Range | None, q: Range) -> Range:
    """The keys that queries `q` of sequences `b`, of all without it, see between them."""
    blocks = slice(q[0] // seen.queries, -(-q[1] // seen.queries))
    rows = slice(None) if b is None else slice(*b)
    low = min(min(each[blocks]) for each in seen.lows[rows])
    return low, max(max(each[blocks]) for each in seen.highs[rows])
