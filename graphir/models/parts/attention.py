"""Multi-head attention (A 1.3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import D_H, N_H, D
from graphir.models.parts.frame import Frame
from graphir.operators import concatenate, matmul, reshape, scale_mask, softmax, transpose


@dataclass(frozen=True)
class Attention:
    """Attention of N_H heads of width D_h.

    causal    whether a place sees only itself and what stands before it
    biases    which of the maps Q, K, V and O have one
    """

    causal: bool = True
    biases: str = "O"

    def build(self, frame: Frame, X_norm: Value) -> Value:
        """A_out [B, S, D] of X_norm [B, S, D]."""
        usage = frame.usage
        Q, K, V = (self._heads(frame, X_norm, which) for which in "QKV")
        A = matmul(Q, transpose(K, name="K_T"), name="A")
        masks = () if frame.keep is None else (frame.keep,)
        Z = scale_mask(A, *masks, width=D_H, causal=self.causal, mask=usage.mask, name="Z")
        AS = softmax(Z, name="AS")
        AO_heads = matmul(frame.dropout(AS, "AS_drop"), V, name="AO_heads")
        AO_cat = concatenate(transpose(AO_heads, (0, 2, 1, 3), name="AO_T"), name="AO_cat")
        AO = matmul(AO_cat, frame.weight("W_O", D, D, on_stream=True), name="AO_lin")
        if "O" in self.biases:
            AO = frame.biased(AO, "b_O", "AO_bias")
        return frame.dropout(AO, "A_out")

    def _heads(self, frame: Frame, X_norm: Value, which: str) -> Value:
        """Q, K or V [B, N_H, S, D_h]: X_norm • W, split into heads (R), heads before places (T)."""
        lin = matmul(X_norm, frame.weight(f"W_{which}", D, D), name=f"{which}_lin")
        if which in self.biases:
            lin = frame.biased(lin, f"b_{which}", f"{which}_bias")
        split = reshape(lin, "b s (h d) -> b s h d", h=N_H, d=D_H, name=f"{which}_split")
        return transpose(split, (0, 2, 1, 3), name=which)
