"""Cross-entropy and its mean over the valid tokens: CE, dCE, count, ÷ (A 1.5.3, B 5.5).

Logits at or below −1e30, −∞ included, are masked, as scores are: words of probability 0, without a gradient. A row of
nothing else has the loss 0; a label whose own logit is masked beside others that are not, −log 0 = ∞.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graphir.errors import DimError
from graphir.ir.dims import as_dim
from graphir.ir.operator import Array, Attributes, Place, Size, Xp, operator
from graphir.ir.types import require_rank
from graphir.ir.value import Value
from graphir.operators.attention import softmax
from graphir.operators.special import divisor, is_masked, masked_score, shift

#: The label that counts for nothing: padding, or a target that is not to be learnt. PyTorch's value.
IGNORE = -100


@operator(
    "CE",
    "Z[*b v!], Y[*b] in v -> L[*b], lse[*b]",
    auxiliary="lse",
    exempt="ignore",
    flops=5,
)
def cross_entropy(xp: Xp, Z: Array, Y: Array, *, ignore: int = IGNORE, at: Place) -> tuple[Array, Array]:
    """L [B, S] = lse − Z[Y] per token, lse = log Σ exp(Z) over the vocabulary; 0 where Y is `ignore`.

    That is −log P[Y] with P = S(Z), without storing P [B, S, V]; lse is a result too, cached for dCE. Where all of a
    row is masked, Z ≤ −1e30, both are 0; where only its label is, L = −log 0 = ∞.
    """
    lse, s = _log_sum_exp(xp, Z)
    valid = ignore != Y
    picked = xp.take_along_axis(Z, (Y * valid)[..., None], axis=-1)[..., 0]
    return losses(xp, lse, picked, valid & (s != 0)), lse


def _log_sum_exp(xp: Xp, Z: Array) -> tuple[Array, Array]:
    """log Σ exp(Z) over the last dim, 0 where all of it is masked, and Σ exp(Z − max Z)."""
    level = shift(xp, Z.max(axis=-1))
    s = xp.exp(Z - level[..., None]).sum(axis=-1)
    return xp.log(divisor(s)) + level, s


def losses(xp: Xp, lse: Array, picked: Array, counts: Array) -> Array:
    """lse − Z[Y] of the rows that count, whose label is valid and that have a word; `picked` is Z[Y] there."""
    picked = xp.where(is_masked(picked), picked.dtype.type(-math.inf), picked)
    # A choice first: of rows that do not count anything may have been picked. NaN in lse stays visible.
    return (lse - xp.where(counts, picked, picked.dtype.type(0))) * counts


@cross_entropy.backward("dCE", "Z[*b v], lse[*b], Y[*b] in v, dL[*b] -> dZ[*b v]", exempt="ignore", flops=4)
def d_cross_entropy(xp: Xp, Z: Array, lse: Array, Y: Array, dL: Array, *, ignore: int = IGNORE, at: Place) -> Array:
    """dZ = (P − onehot(Y)) dL with P = exp(Z − lse); 0 where Y is `ignore`, and where Z is masked, at a label too."""
    label = xp.arange(Z.shape[-1]) == (Y - at.start("v"))[..., None]
    return (xp.exp(Z - lse[..., None]) - (label & ~is_masked(Z))) * (dL * (ignore != Y))[..., None]


# -- CE on probabilities: what CE becomes when it is taken apart, as A 1.5 draws it ------------------------


@operator("CEP", "P[*b v!], Y[*b] in v -> L[*b]", symbol="CE", exempt="ignore", positive="P", flops=1)
def cross_entropy_of_probabilities(xp: Xp, P: Array, Y: Array, *, ignore: int = IGNORE, at: Place) -> Array:
    """L [B, S] = −log P[Y] per token; 0 where Y is `ignore`. P is S's result; CE, from logits, loses no digits.

    A row all of whose logits are masked is 0 in P, and has the loss 0.
    """
    valid = (ignore != Y) & _has_words(P)
    picked = xp.take_along_axis(P, (Y * valid)[..., None], axis=-1)[..., 0]
    return -xp.log(xp.where(valid, picked, P.dtype.type(1)))


def _has_words(P: Array) -> Array:
    """Which rows of probabilities are not all 0."""
    return P.max(axis=-1) != 0


@cross_entropy_of_probabilities.backward(
    "dCEP",
    "P[*b v!], Y[*b] in v, dL[*b] -> dP[*b v!]",
    exempt="ignore",
    positive="P",
    flops=1,
)
def d_cross_entropy_of_probabilities(xp: Xp, P: Array, Y: Array, dL: Array, *, ignore: int = IGNORE) -> Array:
    """dP = −onehot(Y) dL / P; 0 where Y is `ignore`, and in a row that is all 0."""
    valid = (ignore != Y) & _has_words(P)
    index = (Y * valid)[..., None]
    picked = xp.where(valid[..., None], xp.take_along_axis(P, index, axis=-1), P.dtype.type(1))
    slope = -(dL * valid)[..., None] / picked
    # CuPy before 14 has no put_along_axis.
    return xp.where(xp.arange(P.shape[-1]) == index, slope, P.dtype.type(0))


@operator("LSE", "Z[*b v!] -> lse[*b]", no_gradient="it is cached for dCE only", flops=4)
def log_sum_exp(xp: Xp, Z: Array) -> Array:
    """lse [B, S] = log Σ exp(Z) over the vocabulary; 0 where all of a row is masked."""
    return _log_sum_exp(xp, Z)[0]


@cross_entropy.lowering
def _take_apart(operands: Mapping[str, Value], attributes: Attributes, names: Mapping[str, str]) -> dict[str, Value]:
    """S → P → CE, as the documents' figure of the loss has it, and lse where dCE needs it."""
    Z, Y, made = operands["Z"], operands["Y"], dict[str, Value]()
    if "L" in names:
        P = softmax(Z, name=f"{names['L']}.P")
        made["L"] = cross_entropy_of_probabilities(P, Y, ignore=attributes["ignore"], name=names["L"])
    if "lse" in names:
        made["lse"] = log_sum_exp(Z, name=names["lse"])
    return made


# -- means ------------------------------------------------------------------------------------------------


def _count_signature(by: int) -> str:
    kept = " ".join(f"r{i}" for i in range(require_rank(by)))
    return f"Y[{kept} *b] int -> n[{kept}] dtype"


@operator(
    "count",
    _count_signature,
    symbol="#",
    no_gradient="a number of labels does not depend on anything that is trained",
    examples=({}, {"by": 1}),
)
def count_valid(xp: Xp, Y: Array, *, ignore: int = IGNORE, by: int = 0, dtype: str = "float32") -> Array:
    """n: how many labels of Y [B, S] are not `ignore`; for each index of the first `by` dims."""
    return (ignore != Y).sum(axis=tuple(range(by, Y.ndim))).astype(dtype)


@operator(
    "size",
    "X[*b] -> n[]",
    symbol="#",
    shape_only=True,
    no_gradient="a number of elements does not depend on what they are",
)
def count_elements(xp: Xp, X: Array) -> Array:
    """n: how many elements X has."""
    return xp.asarray(X.size, dtype=X.dtype)


@operator("div", "X[*b], n[*b] -> Y[*b]", symbol="÷", infix=True, elementwise=True, linear="X", flops=1)
def divide_by_count(xp: Xp, X: Array, n: Array) -> Array:
    """Y = X / max(n, 1): a mean over n tokens, 0 where there are none."""
    return X / xp.maximum(n, n.dtype.type(1))


@divide_by_count.backward("dDiv", "n[*b], dY[*b] -> dX[*b]", symbol="d÷", elementwise=True, linear="dY", flops=1)
def d_divide(xp: Xp, n: Array, dY: Array) -> Array:
    """dX = dY / max(n, 1); n counts tokens and gets no gradient."""
    return dY / xp.maximum(n, n.dtype.type(1))


@operator("average", "X[r] -> Y[]", symbol="mean", linear="X", reduction="mean", flops=1)
def average(xp: Xp, X: Array) -> Array:
    """Y = Σ X / N over the N entries of X [N]; of blocks of equal size, the mean of their means."""
    return X.mean()


@average.backward("dAverage", "dY[] -> dX[r]", symbol="dmean", linear="dY", flops=1, examples=({"r": as_dim(3)},))
def d_average(xp: Xp, dY: Array, *, r: Size, shape: tuple[int, ...]) -> Array:
    """dX [N] = dY / N for each entry."""
    return xp.broadcast_to(dY / r, shape).astype(dY.dtype)


# -- a padded vocabulary ----------------------------------------------------------------------------------


@operator(
    "ids",
    "T[*b] in v -> Y[*b] int",
    symbol="ids",
    exempt="ignore",
    no_gradient="token ids are integers",
    examples=({"v": as_dim(5)},),
)
def token_ids(xp: Xp, T: Array, *, v: Size, ignore: int = IGNORE) -> Array:
    """Y [B, S] = T: ids of V tokens, or `ignore`, and no others, where a padded table would take more."""
    return T.astype("int64")


def _require_room(sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> None:
    tokens, rows = attributes["valid"], sizes["v"]
    if tokens > rows:
        raise DimError(f"a vocabulary of {tokens} tokens does not fit into {rows} rows; V_pad must be at least V")


@operator(
    "PAD",
    "Z[*b v] -> Y[*b v]",
    flops=1,
    elementwise=True,
    requires=_require_room,
    examples=({"valid": as_dim(2)},),
)
def mask_padding(xp: Xp, Z: Array, *, valid: Size, at: Place) -> Array:
    """Y [B, S, V_pad] = Z where the column is a token, −1e30 where it only pads the vocabulary (v ≥ `valid`).

    That is a masked logit: a word of probability 0.
    """
    return xp.where(_is_token(xp, Z, valid, at), Z, masked_score(Z.dtype))


@mask_padding.backward(
    "dPAD", "dY[*b v] -> dZ[*b v]", linear="dY", flops=1, elementwise=True, examples=({"valid": as_dim(2)},)
)
def d_mask_padding(xp: Xp, dY: Array, *, valid: Size, at: Place) -> Array:
    """dZ = dY where the column is a token, 0 where it is padding."""
    return dY * _is_token(xp, dY, valid, at)


def _is_token(xp: Xp, Z: Array, valid: int, at: Place) -> Array:
    return xp.arange(Z.shape[-1]) + at.start("v") < valid


@operator("one", "-> dL[] dtype", symbol="1", hidden=True, no_gradient="it is a constant")
def one(xp: Xp, *, dtype: str = "float32") -> Array:
    """dL = ∂L/∂L = 1: where the backward pass starts."""
    return xp.ones((), dtype=dtype)
