"""The MLP of a layer (A 1.4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import D_FF, D
from graphir.models.parts.frame import Frame
from graphir.operators import activation, matmul


@dataclass(frozen=True)
class FeedForward:
    """Two linear maps by way of D_ff, `activation` (GL) between them."""

    activation: str = "gelu_tanh"

    def build(self, frame: Frame, H: Value) -> Value:
        """Y [B, S, D] of H [B, S, D]."""
        Z_up_lin = matmul(H, frame.weight("W_up", D, D_FF), name="Z_up_lin")
        Z_up = frame.biased(Z_up_lin, "b_up", "Z_up")
        H_inter = frame.dropout(activation(Z_up, kind=self.activation, name="A_up"), "H_inter")
        Z_down = matmul(H_inter, frame.weight("W_down", D_FF, D, on_stream=True), name="Z_down")
        return frame.dropout(frame.biased(Z_down, "b_down", "A_out"), "Y")
