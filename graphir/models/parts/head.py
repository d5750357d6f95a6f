"""From the last X [B, S, D] to logits over the vocabulary, and the decoding branch (A 1.5)."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import D, V
from graphir.models.parts.frame import Frame
from graphir.models.parts.norm import Norm
from graphir.operators import activation, argmax, mask_padding, matmul, soft_cap, softmax, top_k, transpose


@dataclass(frozen=True)
class Head:
    """The output projection, W_lm [D, V].

    tied         whether W_lm is Eᵀ
    bias         whether it has a bias, b_lm
    norm         whether a norm stands before it
    transform    GL of a linear map that stands before the norm; "": there is none (BERT)
    cap          logits lie within ±cap; 0: anywhere (Gemma 2)
    """

    tied: bool = True
    bias: bool = True
    norm: bool = True
    transform: str = ""
    cap: float = 0.0

    @property
    def answer(self) -> str:
        """What the logits are called, padded or not."""
        return "Z_cap" if self.cap else "Z_bias" if self.bias else "Z_lin"

    def build(self, frame: Frame, X: Value, E: Value, norm: Norm) -> Value:
        """Logits [B, S, V], masked beyond V where the vocabulary is padded."""
        block = frame.block
        if self.norm:
            X = block.alias("X", X)
            A_out = norm.build(frame, self._transformed(frame, X), "A_out")
        else:
            A_out = block.alias("A_out", self._transformed(frame, X))
        W_lm = transpose(E, name="W_lm") if self.tied else block.parameter("W_lm", (D, frame.vocabulary))
        Z = matmul(A_out, W_lm, name="Z_lin")
        if self.bias:
            Z = frame.biased(Z, "b_lm", "Z_bias")
        if self.cap:
            Z = soft_cap(Z, cap=self.cap, name="Z_cap")
        return mask_padding(Z, valid=V, name="Z_valid") if frame.usage.padded else Z

    def _transformed(self, frame: Frame, X: Value) -> Value:
        """GL(X • W_map + b_map), or X."""
        if not self.transform:
            return X
        lin = matmul(X, frame.weight("W_map", D, D), name="X_lin")
        return activation(frame.biased(lin, "b_map", "X_bias"), kind=self.transform, name="X_map")


def decode(frame: Frame, Z: Value) -> None:
    """Adds `ids` [B, S], the tokens that follow, chosen by the logits Z [B, S, V] as the usage has it."""
    usage, inputs = frame.usage, frame.inputs
    if usage.decode is None:
        return
    P = softmax(Z, name="P")
    if usage.decode == "argmax":
        argmax(P, name="ids")
    else:
        top_k(P, inputs["seed"], inputs["step"], k=usage.k, temperature=usage.temperature, name="ids")
