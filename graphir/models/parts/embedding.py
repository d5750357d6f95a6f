"""From token ids, or a text, to the first X [B, S, D] (A 1.2)."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import D, S
from graphir.models.parts.frame import Frame
from graphir.models.parts.positions import Rows
from graphir.operators import lookup, tokenize


@dataclass(frozen=True)
class Embedding:
    """X = DO(lookup(E, T) + positions), E [V, D]."""

    def build(self, frame: Frame, ids: Value, positions: Rows) -> tuple[Value, Value]:
        """X [B, S, D], and E, which a tied head reads, too. `ids` are T [B, S], or `text` [B]."""
        block, usage = frame.block, frame.usage
        if usage.text:
            block.alias("text", ids)
            T = tokenize(ids, s=S, tokenizer=usage.tokenizer, name="T")
        else:
            T = frame.checked(block.alias("T", ids))
        E = block.parameter("E", (frame.vocabulary, D))
        X_emb = positions.embed(frame, lookup(E, T, name="X_tok"))
        return frame.dropout(X_emb, "X"), E
