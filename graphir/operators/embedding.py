"""From text to vectors: Tokenizer, Embedding Lookup, sinusoidal positions (A 1.2.2)."""

from __future__ import annotations

from graphir.ir.dims import as_dim
from graphir.ir.operator import Array, Place, Size, Xp, operator
from graphir.operators.special import scatter_add
from graphir.tokenizer import load_tokenizer


@operator(
    "Tokenizer",
    "text[b] text -> T[b s!] int",
    no_gradient="token ids are integers",
    examples=({"s": as_dim(8)},),
)
def tokenize(xp: Xp, text: Array, *, s: Size, tokenizer: str = "bytes", pad: int = 0) -> Array:
    """T [B, S]: the ids of each text's first S tokens, filled up with `pad`.

    `tokenizer` is "bytes" (V = 256) or the path of a Hugging Face `tokenizer.json`.
    """
    encoder = load_tokenizer(tokenizer)
    rows = [encoder.encode(str(each))[:s] for each in text]
    return xp.asarray([row + [pad] * (s - len(row)) for row in rows], dtype=xp.int64).reshape(len(rows), s)


@operator(
    "lookup",
    "E[v d], T[*b] in v -> X[*b d]",
    symbol="Embedding Lookup",
    linear="E",
    selects="E",
)
def lookup(xp: Xp, E: Array, T: Array, *, at: Place) -> Array:
    """X [B, S, D]: row T of the embedding matrix E [V, D], for each token; 0 for an id outside E's block."""
    rows, inside = _local_rows(T, E.shape[0], at)
    # A copy even of a single row, which E[rows] would be a view of.
    X = E.take(rows, axis=0)
    return X if inside is None else X * inside[..., None]


@lookup.backward(
    "dLookup",
    "T[*b] in v, dX[*b d] -> dE[v d]",
    symbol="d Embedding",
    linear="dX",
    flops=1,
    examples=({"v": as_dim(11)},),
)
def d_lookup(xp: Xp, T: Array, dX: Array, *, v: Size, shape: tuple[int, ...], at: Place) -> Array:
    """dE [V, D]: row t is the sum of dX over the places where the token is t."""
    rows, inside = _local_rows(T, shape[0], at)
    if inside is not None:
        dX = dX * inside[..., None]
    return scatter_add(xp, rows, dX, shape)


def _local_rows(T: Array, count: int, at: Place) -> tuple[Array, Array | None]:
    """Each id's row in a block of `count` rows, and which ids lie in it; None if the block is everything."""
    if count == at.sizes["v"]:
        return T, None
    rows = T - at.start("v")
    inside = (rows >= 0) & (rows < count)
    return rows * inside, inside


@operator(
    "positions",
    "-> P[s d] dtype",
    symbol="sin",
    no_gradient="sinusoidal positions are fixed",
    examples=({"s": as_dim(6), "d": as_dim(8)},),
)
def sinusoidal_positions(
    xp: Xp, *, s: Size, d: Size, dtype: str = "float32", shape: tuple[int, ...], at: Place
) -> Array:
    """P [S, D]: sin(s ω_j) in column 2j and cos(s ω_j) in 2j + 1, ω_j = 10000^(−2j/D) (Vaswani et al., 2017)."""
    rows = xp.arange(shape[0], dtype="float64") + at.start("s")
    columns = xp.arange(shape[1]) + at.start("d")
    angle = rows[:, None] * 10000.0 ** (-(columns - columns % 2) / at.sizes["d"])[None, :]
    return xp.where(columns % 2 == 0, xp.sin(angle), xp.cos(angle)).astype(dtype)
