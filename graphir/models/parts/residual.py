"""How the two blocks of a layer, attention and MLP, stand on the residual stream with their norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from graphir.ir.value import Value
from graphir.models.parts.frame import Frame
from graphir.models.parts.norm import Norm
from graphir.operators import add

#: What a block adds to the stream [B, S, D], of what it reads [B, S, D].
Block: TypeAlias = Callable[[Value], Value]

#: Before what a block reads; after the sum with the stream; before what it reads, and after what it adds.
PRE, POST, SANDWICH = ORDERS = ("pre", "post", "sandwich")


def on_stream(
    frame: Frame, order: str, norm: Norm, block: Block, X: Value, *, scope: str, normed: str, name: str
) -> Value:
    """The stream X [B, S, D] after a block, called `name`.

    The block stands in `scope`, with its norms, and calls what it reads `normed`.
    pre: X + block(norm(X)); post: norm(X + block(X)); sandwich: X + norm(block(norm(X))).
    """
    with frame.block.scope(scope):
        X = frame.block.alias("X", X)
        Y = block(X if order == POST else norm.build(frame, X, normed))
        if order == SANDWICH:
            Y = norm.build(frame, Y, "Y_norm", of="out")
        if order == POST:
            Y = norm.build(frame, add(X, Y, name="X_sum"), normed)
    return frame.block.alias(name, Y) if order == POST else add(X, Y, name=name)
