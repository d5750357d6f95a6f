"""Normalization over the model's width, or a head's."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.value import Value
from graphir.models.parts.frame import Frame
from graphir.operators import layer_norm, rms_norm
from graphir.options import require_choice

LAYER, RMS = "layer", "rms"
KINDS = (LAYER, RMS)


@dataclass(frozen=True)
class Norm:
    """LN, with parameters gamma and beta, or RMS, with gamma alone.

    epsilon    what is added to the variance, or to the mean square
    offset     of RMS: what is added to gamma; 1 where a checkpoint holds γ − 1, as Gemma's does
    """

    kind: str = LAYER
    epsilon: float = 1e-5
    offset: float = 0.0

    def __post_init__(self) -> None:
        require_choice("norm", self.kind, KINDS)

    def build(self, frame: Frame, X: Value, name: str, of: str = "") -> Value:
        """norm(X) over the last dim of X [*b, n], called `name`; its parameters [n] are gamma and beta, or gamma_of."""
        suffix, width = f"_{of}" if of else "", X.shape[-1]
        gamma = frame.block.parameter(f"gamma{suffix}", (width,), init="zeros" if self.offset else "ones")
        if self.kind == RMS:
            return rms_norm(X, gamma, epsilon=self.epsilon, offset=self.offset, name=name)
        beta = frame.block.parameter(f"beta{suffix}", (width,), init="zeros")
        return layer_norm(X, gamma, beta, epsilon=self.epsilon, name=name)
