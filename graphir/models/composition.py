"""A Transformer as a composition of parts: embedding, layers on a residual stream, head, loss."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from graphir.ir.builder import Builder
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.models.dims import V_PAD, B, S, V
from graphir.models.parts.attention import Attention
from graphir.models.parts.embedding import Embedding
from graphir.models.parts.feed_forward import FeedForward
from graphir.models.parts.frame import Frame
from graphir.models.parts.head import Head, decode
from graphir.models.parts.loss import mean_loss
from graphir.models.parts.norm import Norm
from graphir.models.parts.positions import Rows
from graphir.models.parts.residual import pre_norm
from graphir.models.usage import Usage


@dataclass(frozen=True)
class Composition:
    """What a Transformer is, but for its sizes: the parts that it is made of, how often, and of which floats.

    layers     how many layers there are
    dropout    p of every DO
    dtype      the floats of all tensors
    """

    layers: int
    _: KW_ONLY
    embedding: Embedding
    positions: Rows
    norm: Norm
    attention: Attention
    mlp: FeedForward
    head: Head
    dropout: float = 0.0
    dtype: str = "float32"

    def build(self, usage: Usage, name: str = "transformer") -> Graph:
        """The graph with its loss, for any sizes of its dims.

        Inputs: T [B, S] token ids and Y [B, S] targets (int64; label −100 counts for nothing), seed and step (int64
        scalars that dropout is keyed by); `text` [B] in place of T, `keep` with a mask, as the usage has it.
        Output: L, the mean loss over the valid tokens.
        """
        block = Builder(name, dtype=self.dtype)
        ids = block.input("text", (B,), "text") if usage.text else block.input("T", (B, S), "int64")
        labels = block.input("Y", (B, S), "int64")
        frame = self._frame(block, usage)
        with block.scope("embedding"):
            X, E = self.embedding.build(frame, ids, self.positions)
        for layer in range(self.layers):
            with block.scope(f"layer{layer}"):
                X = self._layer(frame, X)
        with block.scope("output"):
            Z = self.head.build(frame, X, E, self.norm)
            decode(frame, Z)
            L = mean_loss(frame, Z, labels)
        block.alias("L", L)
        return block.build(L)

    def _frame(self, block: Builder, usage: Usage) -> Frame:
        seed, step = block.input("seed", (), "int64"), block.input("step", (), "int64")
        keep = None
        if usage.mask != "none":
            keep = block.input("keep", (B, S) if usage.mask == "padding" else (S, S), "bool")
        vocabulary = V_PAD if usage.padded else V
        return Frame(block, usage, self.layers, vocabulary, self.dropout, seed, step, keep)

    def _layer(self, frame: Frame, X: Value) -> Value:
        """X_mid = X + MHA(norm(X)), X_out = X_mid + MLP(norm(X_mid))."""
        X_mid = pre_norm(frame, self.norm, lambda Y: self.attention.build(frame, Y), X, "mha", "X_norm", "X_mid")
        return pre_norm(frame, self.norm, lambda Y: self.mlp.build(frame, Y), X_mid, "mlp", "H", "X_out")
