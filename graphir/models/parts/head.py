"""From the last X [B, S, D] to logits over the vocabulary, and the decoding branch (A 1.5)."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import D, V
from graphir.models.parts.frame import Frame
from graphir.models.parts.norm import Norm
from graphir.operators import argmax, mask_padding, matmul, softmax, top_k, transpose


@dataclass(frozen=True)
class Head:
    """The output projection, W_lm [D, V], and its bias.

    tied    whether W_lm is Eᵀ
    norm    whether a norm stands before it
    """

    tied: bool = True
    norm: bool = True

    def build(self, frame: Frame, X: Value, E: Value, norm: Norm) -> Value:
        """Logits [B, S, V], masked beyond V where the vocabulary is padded."""
        block = frame.block
        A_out = norm.build(frame, block.alias("X", X), "A_out") if self.norm else block.alias("A_out", X)
        W_lm = transpose(E, name="W_lm") if self.tied else block.parameter("W_lm", (D, frame.vocabulary))
        Z = frame.biased(matmul(A_out, W_lm, name="Z_lin"), "b_lm", "Z_bias")
        return mask_padding(Z, valid=V, name="Z_valid") if frame.usage.padded else Z


def decode(frame: Frame, Z: Value) -> None:
    """Adds `ids` [B, S], the tokens that follow, chosen by the logits Z [B, S, V] as the usage has it."""
    usage = frame.usage
    if usage.decode is None:
        return
    P = softmax(Z, name="P")
    if usage.decode == "argmax":
        argmax(P, name="ids")
    else:
        top_k(P, frame.seed, frame.step, k=usage.k, temperature=usage.temperature, name="ids")
