"""The documents' Transformer as a graph: embedding, pre-LN layers, output projection, loss, decoding.

Notation: every tensor bears the name that A's tables (1.2.2, 1.3.3, 1.4.3, 1.5.3) give it, in its block's
scope: `embedding`, `layer0/mha`, `layer0/mlp`, …, `output`. Between linear maps and their biases, and
between R and T, stand names of our own (`Q_lin`, `Z_up_lin`), since the documents leave those edges bare.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from graphir.ir.builder import Builder
from graphir.ir.dims import Dim, dim, dims
from graphir.ir.graph import Graph
from graphir.ir.value import Value
from graphir.operators import (
    activation,
    add,
    argmax,
    average,
    broadcast,
    concatenate,
    count_valid,
    cross_entropy,
    divide_by_count,
    dropout,
    layer_norm,
    lookup,
    mask_padding,
    matmul,
    reduce_sum,
    reshape,
    scale_mask,
    sinusoidal_positions,
    softmax,
    token_ids,
    tokenize,
    top_k,
    transpose,
)
from graphir.operators.elementwise import KINDS
from graphir.options import checked, made_of, option, options_of

B, S, D, D_FF, N_H, V = dims("B S D D_ff N_H V")
D_H = dim("D_h", D / N_H)
V_PAD, N_DP = dims("V_pad N_DP")


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
    positions: str = option("learned", "How places are told apart.", choices=("learned", "sinusoidal"))
    tied: bool = option(True, "Whether the output projection is Eᵀ.", opposite="untied")
    qkv_bias: bool = option(False, "Whether Q, K and V have biases.")
    final_norm: bool = option(True, "Whether an LN stands before the output projection.")
    dtype: str = option("float32", "The floats of all tensors.", choices=("float32", "float64"))

    def model_options(self, **changes: Any) -> dict[str, Any]:
        """The keywords by which `transformer` builds this model, with `changes`."""
        return {name: getattr(self, name) for name in options_of(Architecture)} | changes


@dataclass(frozen=True)
class Options(Architecture):
    """All that a Transformer may vary in: its architecture, and what it is built for.

    Errors: ConfigError, with the option's name, for a value that it cannot have.
    """

    causal: bool = option(True, "Whether a place sees only itself and what stands before it.")
    mask: str = option(
        "none",
        "What else is masked: padding, by an input `keep` [B, S], or what is given, by an input `keep` [S, S].",
        choices=("none", "padding", "given"),
    )
    mean: str = option(
        "tokens",
        "What the loss is the mean over: all valid tokens, or the means of N_DP equal parts of the batch, as "
        "data-parallel replicas that average their gradients have it (A 3.5).",
        choices=("tokens", "replicas"),
    )
    # Who starts the rows beyond V at zero keeps them there.
    padded: bool = option(
        False,
        "Whether the vocabulary's tensors have V_pad ≥ V rows, so that ranks can share it evenly, or that rows of "
        "logits are as wide as tensor cores like.",
    )
    decode: str | None = option("argmax", "The decoding branch.", kind=str, choices=("argmax", "top-k", None))
    k: int = option(40, "Of top-k decoding: how many of the most probable tokens may be drawn.", least=1)
    temperature: float = option(
        1.0, "Of top-k decoding: what logits are divided by; 0 always draws the most probable token.", least=0
    )
    text: bool = option(False, "Whether the graph starts from `text` [B] by a Tokenizer instead of from ids.")
    tokenizer: str = option("bytes", "Which one: 'bytes', or the path of a Hugging Face tokenizer.json.")

    def __post_init__(self) -> None:
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)


def transformer(layers: int = 2, **options: object) -> Graph:
    """The documents' Transformer with its loss (A 1, B 5), for any sizes B, S, D, D_ff, N_H, V.

    Inputs: T [B, S] token ids and Y [B, S] targets (int64; label −100 counts for nothing), seed and step
    (int64 scalars that dropout is keyed by); `text` [B] in place of T, `keep` with a mask, as `Options` say.
    Output: L, the mean loss over the valid tokens. Dims: D_h = D/N_H.
    Errors: ConfigError for an option that is unknown, of a wrong kind or out of range.
    """
    return _Transformer(made_of(Options, "a Transformer", {"layers": layers, **options})).build()


class _Transformer:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.block = Builder("transformer", dtype=options.dtype)
        self.V = V_PAD if options.padded else V

    def build(self) -> Graph:
        block, options = self.block, self.options
        ids = block.input("text", (B,), "text") if options.text else block.input("T", (B, S), "int64")
        labels = block.input("Y", (B, S), "int64")
        self.seed, self.step = block.input("seed", (), "int64"), block.input("step", (), "int64")
        self.keep = None
        if options.mask != "none":
            self.keep = block.input("keep", (B, S) if options.mask == "padding" else (S, S), "bool")
        with block.scope("embedding"):
            X, E = self._embedding(ids)
        for layer in range(options.layers):
            with block.scope(f"layer{layer}"):
                X = self._layer(X)
        with block.scope("output"):
            L = self._output(X, E, labels)
        block.alias("L", L)
        return block.build(L)

    # -- A 1.2 ----------------------------------------------------------------------------------------

    def _embedding(self, ids: Value) -> tuple[Value, Value]:
        """X [B, S, D] = DO(lookup(E, T) + BC(P)), and E [V, D]."""
        block, options = self.block, self.options
        if options.text:
            block.alias("text", ids)
            T = tokenize(ids, s=S, tokenizer=options.tokenizer, name="T")
        else:
            T = self._checked(block.alias("T", ids))
        E = block.parameter("E", (self.V, D))
        X_tok = lookup(E, T, name="X_tok")
        if options.positions == "learned":
            P = block.alias("P", block.parameter("P_theta", (S, D)))
        else:
            P = sinusoidal_positions(s=S, d=D, dtype=options.dtype, name="P", builder=block)
        X_emb = add(X_tok, broadcast(P, (B,), name="BC_P"), name="X_emb")
        return self._dropout(X_emb, "X"), E

    # -- a layer: X + MHA(X), then + MLP ---------------------------------------------------------------

    def _layer(self, X: Value) -> Value:
        """Pre-LN: X_mid = X + MHA(LN(X)), X_out = X_mid + MLP(LN(X_mid))."""
        with self.block.scope("mha"):
            A_out = self._attention(X)
        X_mid = add(X, A_out, name="X_mid")
        with self.block.scope("mlp"):
            Y = self._feed_forward(X_mid)
        return add(X_mid, Y, name="X_out")

    def _attention(self, X: Value) -> Value:
        """Multi-head attention (A 1.3.1): X [B, S, D] to A_out [B, S, D]."""
        block, options = self.block, self.options
        X = block.alias("X", X)
        X_norm = self._layer_norm(X, "X_norm")
        Q, K, V_heads = (self._heads(X_norm, which) for which in "QKV")
        A = matmul(Q, transpose(K, name="K_T"), name="A")
        masks = () if self.keep is None else (self.keep,)
        Z = scale_mask(A, *masks, width=D_H, causal=options.causal, mask=options.mask, name="Z")
        AS = softmax(Z, name="AS")
        AO_heads = matmul(self._dropout(AS, "AS_drop"), V_heads, name="AO_heads")
        AO_cat = concatenate(transpose(AO_heads, (0, 2, 1, 3), name="AO_T"), name="AO_cat")
        AO_lin = matmul(AO_cat, block.parameter("W_O", (D, D), init=self._residual_init()), name="AO_lin")
        AO_bias = add(AO_lin, self._bias("b_O", D), name="AO_bias")
        return self._dropout(AO_bias, "A_out")

    def _heads(self, X_norm: Value, which: str) -> Value:
        """Q, K or V [B, N_H, S, D_h]: X_norm • W, split into heads (R), heads before places (T)."""
        W = self.block.parameter(f"W_{which}", (D, D))
        lin = matmul(X_norm, W, name=f"{which}_lin")
        if self.options.qkv_bias:
            lin = add(lin, self._bias(f"b_{which}", D), name=f"{which}_bias")
        split = reshape(lin, "b s (h d) -> b s h d", h=N_H, d=D_H, name=f"{which}_split")
        return transpose(split, (0, 2, 1, 3), name=which)

    def _feed_forward(self, X: Value) -> Value:
        """The MLP (A 1.4.1): X [B, S, D] to Y [B, S, D] by way of D_ff."""
        block = self.block
        X = block.alias("X", X)
        H = self._layer_norm(X, "H")
        Z_up_lin = matmul(H, block.parameter("W_up", (D, D_FF)), name="Z_up_lin")
        Z_up = add(Z_up_lin, self._bias("b_up", D_FF), name="Z_up")
        A_up = activation(Z_up, kind=self.options.activation, name="A_up")
        H_inter = self._dropout(A_up, "H_inter")
        W_down = block.parameter("W_down", (D_FF, D), init=self._residual_init())
        Z_down = matmul(H_inter, W_down, name="Z_down")
        A_out = add(Z_down, self._bias("b_down", D), name="A_out")
        return self._dropout(A_out, "Y")

    # -- A 1.5 ----------------------------------------------------------------------------------------

    def _output(self, X: Value, E: Value, labels: Value) -> Value:
        """Logits, the loss per token and its mean, and the decoding branch."""
        block, options = self.block, self.options
        if options.final_norm:
            X = block.alias("X", X)
            A_out = self._layer_norm(X, "A_out")
        else:
            A_out = block.alias("A_out", X)
        W_lm = transpose(E, name="W_lm") if options.tied else block.parameter("W_lm", (D, self.V))
        Z_lin = matmul(A_out, W_lm, name="Z_lin")
        Z_bias = add(Z_lin, self._bias("b_lm", self.V), name="Z_bias")
        if options.padded:
            Z_bias = mask_padding(Z_bias, valid=V, name="Z_valid")
        if options.decode is not None:
            P = softmax(Z_bias, name="P")
            if options.decode == "argmax":
                argmax(P, name="ids")
            else:
                top_k(P, self.seed, self.step, k=options.k, temperature=options.temperature, name="ids")
        Y = self._checked(block.alias("Y", labels))
        return self._mean(cross_entropy(Z_bias, Y, name="L_tok"), Y)

    def _mean(self, L_tok: Value, Y: Value) -> Value:
        """L: the mean of L_tok [B, S] over the valid tokens, or of such means over N_DP parts of the batch."""
        dtype = self.options.dtype
        if self.options.mean == "tokens":
            return divide_by_count(reduce_sum(L_tok, name="L_sum"), count_valid(Y, dtype=dtype, name="n"), name="L")
        parts, labels = (
            reshape(each, "(r b) s -> r b s", r=N_DP, name=name) for each, name in ((L_tok, "L_parts"), (Y, "Y_parts"))
        )
        n = count_valid(labels, by=1, dtype=dtype, name="n")
        return average(divide_by_count(reduce_sum(parts, (1, 2), name="L_sum"), n, name="L_replica"), name="L")

    # -- pieces ---------------------------------------------------------------------------------------

    def _checked(self, ids: Value) -> Value:
        """`ids`; of a padded vocabulary, held to V tokens, which the padded tables would not do."""
        return token_ids(ids, v=V, name="ids_of_V") if self.options.padded else ids

    def _layer_norm(self, X: Value, name: str) -> Value:
        gamma = self.block.parameter("gamma", (D,), init="ones")
        beta = self.block.parameter("beta", (D,), init="zeros")
        return layer_norm(X, gamma, beta, name=name)

    def _bias(self, name: str, width: Dim) -> Value:
        """BC_{B,S}(b), b [width]."""
        b = self.block.parameter(name, (width,), init="zeros")
        return broadcast(b, (B, S), name=f"BC_{name}")

    def _dropout(self, X: Value, name: str) -> Value:
        return dropout(X, self.seed, self.step, p=self.options.dropout, name=name)

    def _residual_init(self) -> str:
        """Narrower where a map ends on the residual stream, which 2L of them add up to (GPT-2)."""
        return f"normal({0.02 / (2 * self.options.layers) ** 0.5:.6g})"
