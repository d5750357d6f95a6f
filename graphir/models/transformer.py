"""The documents' Transformer as a graph: embedding, pre-LN layers, output projection, loss, decoding.

It is one composition of the parts that all models share; its options are declared here.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from graphir.ir.graph import Graph
from graphir.models.composition import Composition
from graphir.models.parts.attention import Attention
from graphir.models.parts.embedding import Embedding
from graphir.models.parts.feed_forward import FeedForward
from graphir.models.parts.head import Head
from graphir.models.parts.norm import Norm
from graphir.models.parts.positions import KINDS as POSITIONS
from graphir.models.parts.positions import Rows
from graphir.models.usage import Usage
from graphir.operators.elementwise import KINDS
from graphir.options import made_of, option, options_of


@dataclass(frozen=True)
class Architecture:
    """What a Transformer may vary in, beside its sizes: who trains, checks or draws one has all of these options.

    An option that is added here has to mean by default what was before: checkpoints that are older lack it.
    """

    layers: int = option(2, "L, the number of layers.", least=1)
    _: KW_ONLY
    # DO's masks do not resolve rates above 0.99; 0 leaves DO out of the program's effect, not out of the graph.
    dropout: float = option(0.1, "p, the share that every DO drops.", least=0, most=0.99)
    activation: str = option("gelu_tanh", "GL.", choices=KINDS)
    positions: str = option("learned", "How places are told apart.", choices=POSITIONS)
    tied: bool = option(True, "Whether the output projection is Eᵀ.", opposite="untied")
    qkv_bias: bool = option(False, "Whether Q, K and V have biases.")
    final_norm: bool = option(True, "Whether an LN stands before the output projection.")
    dtype: str = option("float32", "The floats of all tensors.", choices=("float32", "float64"))

    def model_options(self, **changes: Any) -> dict[str, Any]:
        """The keywords by which `transformer` builds this model, with `changes`."""
        return {name: getattr(self, name) for name in options_of(Architecture)} | changes


@dataclass(frozen=True)
class Options(Usage, Architecture):
    """All that a Transformer may vary in: its architecture, and what it is built for.

    Errors: ConfigError, with the option's name, for a value that it cannot have.
    """

    causal: bool = option(True, "Whether a place sees only itself and what stands before it.")

    def composition(self) -> Composition:
        """The parts that the options ask for."""
        return Composition(
            "transformer",
            self.layers,
            embedding=Embedding(),
            positions=Rows(self.positions),
            norm=Norm(),
            attention=Attention(causal=self.causal, biases="QKVO" if self.qkv_bias else "O"),
            mlp=FeedForward(self.activation),
            head=Head(tied=self.tied, norm=self.final_norm),
            dropout=self.dropout,
            dtype=self.dtype,
        )


def transformer(layers: int = 2, **options: object) -> Graph:
    """The documents' Transformer with its loss (A 1, B 5), for any sizes B, S, D, D_ff, N_H, V.

    Inputs: T [B, S] token ids and Y [B, S] targets (int64; label −100 counts for nothing), seed and step
    (int64 scalars that dropout is keyed by); `text` [B] in place of T, `keep` with a mask, as `Options` say.
    Output: L, the mean loss over the valid tokens. Dims: D_h = D/N_H.
    Errors: ConfigError for an option that is unknown, of a wrong kind or out of range.
    """
    chosen = made_of(Options, "a Transformer", {"layers": layers, **options})
    return chosen.composition().build(chosen)
