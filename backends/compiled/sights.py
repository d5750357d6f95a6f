"""What the queries of a run see, where operands say it: positions, windows, documents, padding.

A *sight* is how that follows from arguments of the graph, by the rule that an operator declares (`Sees`). Before each
run it is looked at, block by block of queries, in steps of keys: what a block sees lies between the first step and the
last that have any that is. Nothing is assumed of an order: positions that are mixed up show more steps, and what is
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
#: So many entries of a mask are looked at at a time.
_ENTRIES = 1 << 20
#: What is seen, by how arguments say it.
Views: TypeAlias = "Mapping[Sight, Seen]"


@dataclass(frozen=True)
class Sight:
    """How arguments of the graph say what is seen: by a rule, under attributes; each operand's name, dims and value."""

    rule: Looks
    attributes: Attributes
    operands: tuple[tuple[str, tuple[str, ...], Value], ...]

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
            parts = [self._steps(arrays, b, q, grain, step) for q in queries]
            shown = np.concatenate(parts)
            first, last = shown.argmax(1), shown.shape[1] - shown[:, ::-1].argmax(1)
            some = shown.any(1)
            lows.append(tuple(np.where(some, first * step, count).tolist()))
            highs.append(tuple(np.where(some, np.minimum(last * step, count), 0).tolist()))
        return Seen(grain, count, tuple(lows), tuple(highs))

    def _steps(self, arrays: Mapping[Value, Any], b: int, q: Range, grain: int, step: int) -> Any:
        """[blocks, steps]: in which steps of keys there are such as the queries of each block see."""
        parts = {"b": slice(b, b + 1), "q": slice(*q)}
        operands = {
            name: arrays[value][tuple(parts.get(dim, slice(None)) for dim in dims)]
            for name, dims, value in self.operands
        }
        (seen,) = self.rule(np, operands, self.attributes)
        blocks = np.logical_or.reduceat(seen, range(0, seen.shape[0], grain), axis=0)
        return np.logical_or.reduceat(blocks, range(0, seen.shape[1], step), axis=1)


def keys_of(seen: Seen, b: Range | None, q: Range) -> Range:
    """The keys that queries `q` of sequences `b`, of all without it, see between them; the first one behind the last
    where they see none."""
    blocks = slice(q[0] // seen.queries, -(-q[1] // seen.queries))
    rows = slice(None) if b is None else slice(*b)
    low = min(min(each[blocks]) for each in seen.lows[rows])
    return low, max(max(each[blocks]) for each in seen.highs[rows])
