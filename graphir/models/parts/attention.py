"""Multi-head attention (A 1.3.1), of plain and of grouped heads."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.errors import ConfigError
from graphir.ir.dims import as_dim
from graphir.ir.value import Value
from graphir.models.dims import GROUPED, PLAIN, S_K, SHARES, B, D, G, Heads
from graphir.models.parts.frame import Frame
from graphir.models.parts.norm import Norm
from graphir.models.parts.positions import Angles
from graphir.operators import (
    cache_write,
    concatenate,
    matmul,
    reshape,
    scale_by_root,
    scale_mask,
    scale_mask_by_position,
    soft_cap,
    softmax,
    transpose,
)
from graphir.options import require_choice

#: How heads are laid out in D: see `Heads`.
LAYOUTS = {"shares": SHARES, "plain": PLAIN, "grouped": GROUPED}


@dataclass(frozen=True)
class Attention:
    """Attention of N_H heads of queries, of width D_h.

    causal      whether a place sees only itself and what stands before it
    layout      shares: D_h = D/N_H; plain: D_h is free; grouped: a head of keys and values for G of queries, too
    biases      which of the maps Q, K, V and O have one
    norm        of Q and K, over each head; None: none
    window      how many places a query sees, its own included; 0: all
    windowed    which layers have the window: a pattern that is repeated, (True, False) for every other one
    cap         scores lie within ±cap; 0: anywhere
    width       scores are divided by √width; 0: by √D_h
    """

    causal: bool = True
    layout: str = "shares"
    biases: str = "O"
    norm: Norm | None = None
    window: int = 0
    windowed: tuple[bool, ...] = (True,)
    cap: float = 0.0
    width: int = 0

    def __post_init__(self) -> None:
        require_choice("layout", self.layout, LAYOUTS)
        for which in self.biases:
            require_choice("bias of", which, "QKVO")
        if not self.windowed:
            raise ConfigError("windowed=() says of no layer whether it has the window; (True,) says it of all")

    @property
    def heads(self) -> Heads:
        """The dims of its heads."""
        return LAYOUTS[self.layout]

    def has_window(self, layer: int) -> bool:
        """Whether queries of this layer see a window only."""
        return self.window > 0 and self.windowed[layer % len(self.windowed)]

    def build(self, frame: Frame, X_norm: Value, layer: int, angles: Angles | None) -> Value:
        """A_out [B, S, D] of X_norm [B, S, D]."""
        windowed = self.has_window(layer)
        Q, K, V = (self._heads(frame, X_norm, which, angles, windowed) for which in "QKV")
        if frame.usage.cached:
            K, V = (self._cached(frame, rows, which) for rows, which in ((K, "K"), (V, "V")))
        A = matmul(Q, transpose(K, name="K_T"), name="A")
        AS = softmax(self._masked(frame, A, self.window if windowed else 0), name="AS")
        AO_cat = self._beside(matmul(frame.dropout(AS, "AS_drop"), V, name="AO_heads"))
        heads = self.heads
        AO = matmul(AO_cat, frame.weight("W_O", heads.queries * heads.width, D, on_stream=True), name="AO_lin")
        if "O" in self.biases:
            AO = frame.biased(AO, "b_O", frame.before_dropout("AO_bias", "A_out"))
        elif frame.drop is None:
            return frame.block.alias("A_out", AO)
        return frame.dropout(AO, "A_out")

    # -- heads ----------------------------------------------------------------------------------------

    def _heads(self, frame: Frame, X_norm: Value, which: str, angles: Angles | None, windowed: bool) -> Value:
        """Q [B, N_H, S, D_h] or [B, N_KV, G, S, D_h], K or V [B, N_KV, S, D_h].

        X_norm • W, split into heads (R), heads before places (T); Q and K perhaps normalized, perhaps turned.
        """
        heads = self.heads
        count = heads.queries if which == "Q" else heads.keys
        found = matmul(X_norm, frame.weight(f"W_{which}", D, count * heads.width), name=f"{which}_lin")
        if which in self.biases:
            found = frame.biased(found, f"b_{which}", f"{which}_bias")
        norm, turning = (self.norm, angles) if which != "V" else (None, None)
        stages = [f"{which}_heads", *([f"{which}_norm"] if norm else []), *([f"{which}_rope"] if turning else [])]
        names = iter([*stages[:-1], which])  # what enters A, or AO, is called Q, K or V
        found = self._apart(found, which, next(names))
        if norm is not None:
            found = norm.build(frame, found, next(names), of=which)
        return found if turning is None else turning.turn(found, next(names), windowed)

    def _apart(self, found: Value, which: str, name: str) -> Value:
        """[B, S, n] with its heads apart, and before the places."""
        heads = self.heads
        if which == "Q" and heads is GROUPED:
            split = reshape(found, "b s (k g d) -> b s k g d", k=heads.keys, g=G, d=heads.width, name="Q_split")
            return transpose(split, (0, 2, 3, 1, 4), name=name)
        count = heads.queries if which == "Q" else heads.keys
        split = reshape(found, "b s (h d) -> b s h d", h=count, d=heads.width, name=f"{which}_split")
        return transpose(split, (0, 2, 1, 3), name=name)

    def _beside(self, AO_heads: Value) -> Value:
        """AO_cat [B, S, N_H·D_h]: the heads side by side again."""
        if self.heads is GROUPED:
            return reshape(transpose(AO_heads, (0, 3, 1, 2, 4), name="AO_T"), "b s k g d -> b s (k g d)", name="AO_cat")
        return concatenate(transpose(AO_heads, (0, 2, 1, 3), name="AO_T"), name="AO_cat")

    def _cached(self, frame: Frame, rows: Value, which: str) -> Value:
        """K or V of all tokens so far [B, N_KV, S_k, D_h]: state, into which the rows of these tokens are written."""
        heads = self.heads
        cache = frame.block.state(f"{which}_cache", (B, heads.keys, S_K, heads.width))
        return cache_write(cache, rows, frame.inputs["start"], name=f"{which}_cached")

    # -- scores ---------------------------------------------------------------------------------------

    def _masked(self, frame: Frame, A: Value, window: int) -> Value:
        """Z: scores A, divided by √width, within ±cap, masked; by positions where they are given."""
        inputs, mask, width = frame.inputs, frame.usage.mask, as_dim(self.width) if self.width else self.heads.width
        if self.cap:
            A = soft_cap(scale_by_root(A, width=width, divide=True, name="A_scaled"), cap=self.cap, name="A_cap")
            width = as_dim(1)
        keep = [inputs["keep"]] if "keep" in inputs else []
        if "positions" not in inputs or not self.causal:
            return scale_mask(A, *keep, width=width, causal=self.causal, mask=mask, name="Z")
        packed = "segments" in inputs
        # Without a cache queries and keys are the same tokens.
        keys = inputs.get("key_positions", inputs["positions"])
        operands = [inputs["positions"], keys, *keep, *2 * ([inputs["segments"]] if packed else [])]
        return scale_mask_by_position(A, *operands, width=width, window=window, mask=mask, segments=packed, name="Z")
