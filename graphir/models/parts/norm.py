"""Normalization over the model's width."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.dims import D
from graphir.models.parts.frame import Frame
from graphir.operators import layer_norm


@dataclass(frozen=True)
class Norm:
    """LN, with parameters gamma and beta [D]; `epsilon` is added to the variance."""

    epsilon: float = 1e-5

    def build(self, frame: Frame, X: Value, name: str) -> Value:
        """LN(X) [B, S, D], called `name`."""
        gamma = frame.block.parameter("gamma", (D,), init="ones")
        beta = frame.block.parameter("beta", (D,), init="zeros")
        return layer_norm(X, gamma, beta, epsilon=self.epsilon, name=name)
