"""The decoding branch: ARG and TOP-k (A 1.5.3)."""

from __future__ import annotations

import math

from graphir.errors import TypeCheckError
from graphir.ir.operator import Array, Place, Xp, operator
from graphir.operators.special import global_indices, random_bits, smallest_normal

_NO_GRADIENT = "a choice of a token is not differentiable"


@operator("ARG", "P[*b v!] -> ids[*b] int", no_gradient=_NO_GRADIENT)
def argmax(xp: Xp, P: Array) -> Array:
    """ids [B, S]: the most probable token at each place, the first of equals."""
    return P.argmax(axis=-1)


def _top_k_signature(k: int, temperature: float) -> str:
    if k < 1:
        raise TypeCheckError(f"k={k} leaves no token to choose from; k counts from 1")
    if not 0 <= temperature < math.inf:
        raise TypeCheckError(f"temperature={temperature} must be 0 or positive; 0 means the most probable token")
    return "P[*b v!], seed[] int, step[] int -> ids[*b] int"


@operator(
    "TOPk",
    _top_k_signature,
    symbol="TOP-k",
    random=True,
    positive="P",
    no_gradient=_NO_GRADIENT,
    examples=({"k": 3, "temperature": 0.8, "key": 5}, {"k": 1000, "key": 5}),
)
def top_k(
    xp: Xp, P: Array, seed: Array, step: Array, *, k: int, temperature: float = 1.0, key: int, at: Place
) -> Array:
    """ids [B, S]: a token drawn from the k most probable ones, with probabilities ∝ P^(1/temperature).

    Drawn by the Gumbel trick (Gumbel, 1954): the largest of log P / temperature + g, where g = −log(−log u)
    and u is a hash of (seed, step, key) and the element's index. Temperature 0 is ARG.
    """
    if temperature == 0:
        return P.argmax(axis=-1)
    k = min(k, P.shape[-1])
    smallest = xp.partition(P, P.shape[-1] - k, axis=-1)[..., -k][..., None]
    starts, sizes = at.region("P")
    bits = random_bits(xp, global_indices(xp, starts, sizes, P.shape), seed, step, key)
    uniform = (bits.astype("float64") + 0.5) / 2.0**32
    score = xp.log(xp.maximum(P, smallest_normal(P.dtype))) / temperature - xp.log(-xp.log(uniform))
    above, equal = smallest < P, smallest == P
    # Of tokens as probable as the k-th, the first ones count, as ARG takes the first of equals.
    spare = k - above.sum(axis=-1)[..., None]
    chosen = above | (equal & (equal.cumsum(axis=-1) <= spare))
    # What has probability 0 has it at every temperature.
    return xp.where(chosen & (P > 0), score, -xp.inf).argmax(axis=-1)
