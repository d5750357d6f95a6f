"""From token ids, or a text, to the first X [B, S, D] (A 1.2)."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import N_TYPES, D, S
from graphir.models.parts.frame import Frame
from graphir.models.parts.norm import Norm
from graphir.models.parts.positions import Positions
from graphir.operators import add, lookup, scale_by_root, tokenize


@dataclass(frozen=True)
class Embedding:
    """X = DO(lookup(E, T) + positions), E [V, D].

    scaled    whether tokens' vectors are multiplied by √D (Gemma)
    types     whether a learned row for each token's type, E_type [N_types, D], is added (BERT)
    norm      whether a norm follows (BERT)
    """

    scaled: bool = False
    types: bool = False
    norm: bool = False

    def build(self, frame: Frame, ids: Value, positions: Positions, norm: Norm) -> tuple[Value, Value]:
        """X [B, S, D], and E, which a tied head reads, too. `ids` are T [B, S], or `text` [B]."""
        block, usage = frame.block, frame.usage
        if usage.text:
            block.alias("text", ids)
            T = tokenize(ids, s=S, tokenizer=usage.tokenizer, name="T")
        else:
            T = frame.checked(block.alias("T", ids))
        E = block.parameter("E", (frame.vocabulary, D))
        stages = {"X_tok": True, "X_scaled": self.scaled, "X_typed": self.types, "X_emb": positions.added}
        *names, last = [name for name, there in (stages | {"X_norm": self.norm}).items() if there]
        called = iter([*names, frame.before_dropout(last, "X")])
        X = lookup(E, T, name=next(called))
        if self.scaled:
            X = scale_by_root(X, width=D, name=next(called))
        if self.types:
            E_type = block.parameter("E_type", (N_TYPES, D))
            X = add(X, lookup(E_type, frame.inputs["types"], name="X_type"), name=next(called))
        if positions.added:
            X = positions.embed(frame, X, next(called))
        if self.norm:
            X = norm.build(frame, X, next(called))
        return frame.dropout(X, "X"), E
