"""What all parts of a model's graph share while it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphir.ir.builder import Builder
from graphir.ir.dims import Dim
from graphir.ir.value import Value
from graphir.models.dims import B, S, V
from graphir.models.usage import Usage
from graphir.operators import add, broadcast, dropout, token_ids


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The graph under construction, its inputs, and the rules that hold in every part of it.

    layers        how many there are: what they add to the residual stream starts narrower
    vocabulary    the rows of the vocabulary's tensors: V, or V_pad
    drop          p of every DO; None for a graph without DO
    inputs        what the graph is handed beside ids, targets and parameters, as far as a part of it asks:

        seed, step        int64 scalars, which DO's masks and draws are keyed by
        keep              bool, which keys are masked beside those that lie ahead: [B, S], [S, S] where it is given
        positions         int64 [B, S]: where each token stands in its text
        types             int64 [B, S]: which part of its row a token is of, as BERT was told
        segments          int64 [B, S]: which document of its row a token is of
        start             int64 [B]: the row of the cache that the first of these tokens is written to
        key_positions     int64 [B, S_k]: where the token of each row of the cache stands in its text, these tokens
                          included; of a row that is not written yet a position that no token reaches
        length            int64 scalar, one more than the last position: what angles scaled dynamically ask for
    """

    block: Builder
    usage: Usage
    inputs: Mapping[str, Value]
    layers: int
    vocabulary: Dim
    drop: float | None

    def dropout(self, X: Value, name: str) -> Value:
        """DO(X), called `name`, or X itself in a graph without DO."""
        if self.drop is None:
            return X
        return dropout(X, self.inputs["seed"], self.inputs["step"], p=self.drop, name=name)

    def before_dropout(self, name: str, result: str) -> str:
        """What is called `name` before DO makes `result` of it is called `result` in a graph without DO."""
        return result if self.drop is None else name

    def weight(self, name: str, rows: Dim, columns: Dim, *, on_stream: bool = False) -> Value:
        """W [rows, columns].

        It starts narrower `on_stream`, where it ends on the residual stream, which 2L such maps add up on (GPT-2).
        """
        init = f"normal({0.02 / (2 * self.layers) ** 0.5:.6g})" if on_stream else "normal(0.02)"
        return self.block.parameter(name, (rows, columns), init=init)

    def biased(self, X: Value, bias: str, name: str) -> Value:
        """X [B, S, n] + BC_{B,S}(b), called `name`, with a new b [n] called `bias`."""
        b = self.block.parameter(bias, (X.shape[-1],), init="zeros")
        return add(X, broadcast(b, (B, S), name=f"BC_{bias}"), name=name)

    def checked(self, ids: Value) -> Value:
        """`ids`; of a padded vocabulary, held to V tokens, which the padded tables would not do."""
        return token_ids(ids, v=V, name="ids_of_V") if self.usage.padded else ids
