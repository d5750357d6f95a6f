"""What a text may ask for before it is refused: none makes `parse` work, or remember, out of proportion to itself."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.fused import DEEPEST


@dataclass(frozen=True)
class Budget:
    """Limits of a text; the defaults are beyond what any model that people run needs.

    characters   of the whole text; a node of a sharded training step takes about a hundred
    nodes        those inside fused nodes included
    nesting      fused nodes inside of each other; no graph has more than `graphir.ir.fused` allows

    What a graph may have however it is made bounds texts as well: a dim's factors, digits and definitions
    (`graphir.ir.dims`), a value's dims (`graphir.ir.types`), the characters of a name (`graphir.ir.builder`), the
    axes and ranks of a mesh (`graphir.ir.layout`).
    """

    characters: int = 1 << 26
    nodes: int = 1 << 20
    nesting: int = DEEPEST
