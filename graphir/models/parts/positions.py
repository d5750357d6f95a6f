"""How a Transformer tells places apart."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import B, D, S
from graphir.models.parts.frame import Frame
from graphir.operators import add, broadcast, sinusoidal_positions

#: What P [S, D] may be.
KINDS = ("learned", "sinusoidal")


@dataclass(frozen=True)
class Rows:
    """A row of P [S, D] for each place of a sequence, added to its token's: learned, or sines (A 1.2)."""

    kind: str = "learned"

    def embed(self, frame: Frame, X_tok: Value) -> Value:
        """X_emb [B, S, D] = X_tok + BC_B(P)."""
        block = frame.block
        if self.kind == "learned":
            P = block.alias("P", block.parameter("P_theta", (S, D)))
        else:
            P = sinusoidal_positions(s=S, d=D, dtype=block.dtype, name="P", builder=block)
        return add(X_tok, broadcast(P, (B,), name="BC_P"), name="X_emb")
