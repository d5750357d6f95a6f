"""A Transformer as a composition of parts: embedding, layers on a residual stream, head, loss."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from graphir.errors import ConfigError
from graphir.ir.builder import Builder
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.models.dims import S_K, V_PAD, B, S, V
from graphir.models.parts.attention import Attention
from graphir.models.parts.embedding import Embedding
from graphir.models.parts.feed_forward import FeedForward
from graphir.models.parts.frame import Frame
from graphir.models.parts.head import Head, decode
from graphir.models.parts.loss import mean_loss
from graphir.models.parts.norm import Norm
from graphir.models.parts.positions import Angles, Positions, Rotary
from graphir.models.parts.residual import ORDERS, PRE, on_stream
from graphir.models.usage import Usage
from graphir.options import require_choice


@dataclass(frozen=True)
class Composition:
    """What a Transformer is, but for its sizes: the parts that it is made of, how often, and of which floats.

    name       what its graph is called
    layers     how many there are
    residual   how a layer's blocks and norms stand on the residual stream: pre, post or sandwich
    head       None of an encoder whose results are its last X [B, S, D]
    dropout    p of every DO; None for a graph without DO
    dtype      the floats of all tensors
    """

    name: str
    layers: int
    _: KW_ONLY
    embedding: Embedding
    positions: Positions
    norm: Norm
    attention: Attention
    mlp: FeedForward
    head: Head | None
    residual: str = PRE
    dropout: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_choice("residual", self.residual, ORDERS)

    @property
    def answer(self) -> str:
        """The name of what the model is run for: its logits [B, S, V], of a model without a head its last X."""
        return f"output/{'X' if self.head is None else self.head.answer}"

    def build(self, usage: Usage) -> Graph:
        """The graph with its loss L, the mean over the valid tokens; without, where the usage or the model has none.

        Inputs, of int64 where nothing else is said: T [B, S] token ids, Y [B, S] targets (label −100 counts for
        nothing); `text` [B] in place of T; seed and step, scalars that DO's masks and draws are keyed by; `keep` of
        bool with a mask; and what else `Frame` lists, as far as a part asks for it.
        Errors: ConfigError for a usage that the model has no answer to.
        """
        block = Builder(self.name, dtype=self.dtype)
        ids = block.input("text", (B,), "text") if usage.text else block.input("T", (B, S), "int64")
        labels = block.input("Y", (B, S), "int64") if usage.loss and self.head else None
        frame = self._frame(block, usage)
        with block.scope("embedding"):
            X, E = self.embedding.build(frame, ids, self.positions, self.norm)
            angles = self.positions.angles(frame, self.attention.heads.width)
        for layer in range(self.layers):
            with block.scope(f"layer{layer}"):
                X = self._layer(frame, X, layer, angles)
        with block.scope("output"):
            result = self._output(frame, X, E, labels)
        if labels is not None:
            block.alias("L", result)
        caches = [new for node in block.nodes for _, new in node.updates]
        return block.build(result, *caches)

    def _frame(self, block: Builder, usage: Usage) -> Frame:
        inputs = self._inputs(block, usage)
        rows = V_PAD if usage.padded else V
        return Frame(block=block, usage=usage, inputs=inputs, layers=self.layers, vocabulary=rows, drop=self.dropout)

    def _inputs(self, block: Builder, usage: Usage) -> dict[str, Value]:
        """What the parts ask for, of the usage."""
        self._require(usage)
        wanted = {
            "types": self.embedding.types,
            "positions": self.positions.given,
            "length": isinstance(self.positions, Rotary) and self.positions.scaling.of_texts,
            "segments": usage.packed,
            "start": usage.cached,
            "key_positions": usage.cached,
        }
        shapes = {"length": (), "start": (B,), "key_positions": (B, S_K)}
        found = {name: block.input(name, shapes.get(name, (B, S)), "int64") for name, asked in wanted.items() if asked}
        if self.dropout is not None or usage.decode == "top-k":
            found |= {name: block.input(name, (), "int64") for name in ("seed", "step")}
        if usage.mask != "none":
            keys = S_K if usage.cached else S
            found["keep"] = block.input("keep", (B if usage.mask == "padding" else S, keys), "bool")
        return found

    def _require(self, usage: Usage) -> None:
        """ConfigError for a usage that the model has no answer to."""
        asked = [
            what
            for what, there in (
                ("a window", self.attention.window > 0),
                ("rows of several documents", usage.packed),
                ("a cache", usage.cached),
            )
            if there
        ]
        if asked and not self.positions.given:
            raise ConfigError(f"for {asked[-1]} positions have to be an input; {self.name} counts the places of a row")
        if asked and not self.attention.causal:
            raise ConfigError(f"{self.name} is an encoder, whose tokens see all others: it has no use for {asked[-1]}")
        if usage.mask == "given" and self.positions.given and self.attention.causal:
            raise ConfigError(
                f"{self.name} masks by positions, and takes padding beside them, but no mask for each pair"
            )
        if usage.cached and usage.packed:
            raise ConfigError("a cache's rows are told apart by their positions alone; leave out packed")

    def _layer(self, frame: Frame, X: Value, layer: int, angles: Angles | None) -> Value:
        """X_mid = X + MHA(norm(X)), X_out = X_mid + MLP(norm(X_mid)), or as `residual` has it."""

        def attend(X_norm: Value) -> Value:
            return self.attention.build(frame, X_norm, layer, angles)

        def feed(H: Value) -> Value:
            return self.mlp.build(frame, H)

        order, norm = self.residual, self.norm
        X_mid = on_stream(frame, order, norm, attend, X, scope="mha", normed="X_norm", name="X_mid")
        return on_stream(frame, order, norm, feed, X_mid, scope="mlp", normed="H", name="X_out")

    def _output(self, frame: Frame, X: Value, E: Value, labels: Value | None) -> Value:
        """The loss; without labels the logits, without a head X."""
        if self.head is None:
            return frame.block.alias("X", X)
        Z = self.head.build(frame, X, E, self.norm)
        decode(frame, Z)
        return Z if labels is None else mean_loss(frame, Z, labels)
