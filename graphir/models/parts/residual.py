"""How the two blocks of a layer, attention and MLP, stand on the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from graphir.ir.value import Value
from graphir.models.parts.frame import Frame
from graphir.models.parts.norm import Norm
from graphir.operators import add

#: What a block adds to the stream [B, S, D], of what it reads [B, S, D].
Block: TypeAlias = Callable[[Value], Value]


def pre_norm(frame: Frame, norm: Norm, block: Block, X: Value, scope: str, normed: str, name: str) -> Value:
    """X + block(norm(X)), called `name`; the block stands in `scope`, and calls what it reads `normed`."""
    with frame.block.scope(scope):
        X = frame.block.alias("X", X)
        Y = block(norm.build(frame, X, normed))
    return add(X, Y, name=name)
