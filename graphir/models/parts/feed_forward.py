"""The MLP of a layer (A 1.4.1), plain or gated."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.dims import Dim
from graphir.ir.value import Value
from graphir.models.dims import D_FF, D
from graphir.models.parts.frame import Frame
from graphir.operators import activation, gated, matmul


@dataclass(frozen=True)
class FeedForward:
    """Two linear maps by way of D_ff.

    activation    between them (GL)
    gated         whether the first is two, up and gate: GL(gate) ⊙ up (Shazeer, 2020)
    bias          whether the maps have biases
    """

    activation: str = "gelu_tanh"
    gated: bool = False
    bias: bool = True

    def build(self, frame: Frame, H: Value) -> Value:
        """Y [B, S, D] of H [B, S, D]."""
        inner = frame.before_dropout("A_up", "H_inter")
        if self.gated:
            Z_gate, Z_up = (self._map(frame, H, part, D, D_FF) for part in ("gate", "up"))
            A_up = gated(Z_gate, Z_up, kind=self.activation, name=inner)
        else:
            A_up = activation(self._map(frame, H, "up", D, D_FF), kind=self.activation, name=inner)
        H_inter = frame.dropout(A_up, "H_inter")
        lin = "Z_down" if self.bias else frame.before_dropout("Z_down", "Y")
        Z_down = matmul(H_inter, frame.weight("W_down", D_FF, D, on_stream=True), name=lin)
        if self.bias:
            Z_down = frame.biased(Z_down, "b_down", frame.before_dropout("A_out", "Y"))
        return frame.dropout(Z_down, "Y")

    def _map(self, frame: Frame, H: Value, part: str, rows: Dim, columns: Dim) -> Value:
        """Z_part = H • W_part + b_part."""
        name = f"Z_{part}"
        W = frame.weight(f"W_{part}", rows, columns)
        if not self.bias:
            return matmul(H, W, name=name)
        return frame.biased(matmul(H, W, name=f"{name}_lin"), f"b_{part}", name)
