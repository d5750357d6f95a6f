"""Cross-entropy and its mean over the valid tokens: CE, dCE, count, ÷ (A 1.5.3, B 5.5)."""

from __future__ import annotations

from collections.abc import Mapping

from graphir.errors import InputError
from graphir.ir.dims import as_dim
from graphir.ir.operator import Array, Attributes, Place, Size, Xp, operator
from graphir.ir.value import Value
from graphir.operators.attention import softmax
from graphir.operators.special import MASKED

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

    That is −log P[Y] with P = S(Z), without storing P [B, S, V]; lse is a result too, cached for dCE.
    """
    top = Z.max(axis=-1)
    lse = xp.log(xp.exp(Z - top[..., None]).sum(axis=-1)) + top
    valid = ignore != Y
    picked = xp.take_along_axis(Z, (Y * valid)[..., None], axis=-1)[..., 0]
    return (lse - picked) * valid, lse


@cross_entropy.backward("dCE", "Z[*b v], lse[*b], Y[*b] in v, dL[*b] -> dZ[*b v]", exempt="ignore", flops=4)
def d_cross_entropy(xp: Xp, Z: Array, lse: Array, Y: Array, dL: Array, *, ignore: int = IGNORE, at: Place) -> Array:
    """dZ = (P − onehot(Y)) dL with P = exp(Z − lse); 0 where Y is `ignore`."""
    # Rows side by side: a transposed Z gives a transposed difference, whose reshape below would be a copy.
    dZ = xp.ascontiguousarray(Z - lse[..., None])
    xp.exp(dZ, out=dZ)
    valid = ignore != Y
    rows = dZ.reshape(-1, dZ.shape[-1])
    columns = Y.reshape(-1) - at.start("v")
    here = xp.nonzero(valid.reshape(-1) & (columns >= 0) & (columns < rows.shape[1]))[0]
    rows[here, columns[here]] -= 1
    dZ *= (dL * valid)[..., None]
    return dZ


# -- CE on probabilities: what CE becomes when it is taken apart, as A 1.5 draws it ------------------------


@operator("CEP", "P[*b v!], Y[*b] in v -> L[*b]", symbol="CE", exempt="ignore", flops=1)
def cross_entropy_of_probabilities(xp: Xp, P: Array, Y: Array, *, ignore: int = IGNORE, at: Place) -> Array:
    """L [B, S] = −log P[Y] per token; 0 where Y is `ignore`. P is S's result; CE, from logits, loses no digits."""
    valid = ignore != Y
    picked = xp.take_along_axis(P, (Y * valid)[..., None], axis=-1)[..., 0]
    return -xp.log(xp.where(valid, picked, P.dtype.type(1)))


@cross_entropy_of_probabilities.backward("dCEP", "P[*b v!], Y[*b] in v, dL[*b] -> dP[*b v!]", exempt="ignore", flops=1)
def d_cross_entropy_of_probabilities(xp: Xp, P: Array, Y: Array, dL: Array, *, ignore: int = IGNORE) -> Array:
    """dP = −onehot(Y) dL / P; 0 where Y is `ignore`."""
    valid = ignore != Y
    index = (Y * valid)[..., None]
    slope = -(dL * valid)[..., None] / xp.take_along_axis(P, index, axis=-1)
    # CuPy before 14 has no put_along_axis.
    return xp.where(xp.arange(P.shape[-1]) == index, slope, P.dtype.type(0))


@operator("LSE", "Z[*b v!] -> lse[*b]", no_gradient="it is cached for dCE only", flops=4)
def log_sum_exp(xp: Xp, Z: Array) -> Array:
    """lse [B, S] = log Σ exp(Z) over the vocabulary."""
    top = Z.max(axis=-1)
    return xp.log(xp.exp(Z - top[..., None]).sum(axis=-1)) + top


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
    kept = " ".join(f"r{i}" for i in range(by))
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


@operator("div", "X[*b], n[*b] -> Y[*b]", symbol="÷", elementwise=True, linear="X", flops=1)
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
    return T


@operator("PAD", "Z[*b v] -> Y[*b v]", flops=1, elementwise=True, examples=({"valid": as_dim(2)},))
def mask_padding(xp: Xp, Z: Array, *, valid: Size, at: Place) -> Array:
    """Y [B, S, V_pad] = Z where the column is a token, −1e30 where it only pads the vocabulary (v ≥ `valid`)."""
    if valid > at.sizes["v"]:
        raise InputError(
            f"a vocabulary of {valid} tokens does not fit into {at.sizes['v']} rows; V_pad must be at least V"
        )
    return xp.where(_is_token(xp, Z, valid, at), Z, Z.dtype.type(MASKED))


@mask_padding.backward(
    "dPAD", "dY[*b v] -> dZ[*b v]", linear="dY", flops=1, elementwise=True, examples=({"valid": as_dim(2)},)
)
def d_mask_padding(xp: Xp, dY: Array, *, valid: Size, at: Place) -> Array:
    """dZ = dY where the column is a token, 0 where it is padding."""
    return dY * _is_token(xp, dY, valid, at)


def _is_token(xp: Xp, Z: Array, valid: int, at: Place) -> Array:
    return xp.arange(Z.shape[-1]) + at.start("v") < valid


@operator("one", "-> dL[] dtype", symbol="1", no_gradient="it is a constant")
def one(xp: Xp, *, dtype: str = "float32") -> Array:
    """dL = ∂L/∂L = 1: where the backward pass starts."""
    return xp.ones((), dtype=dtype)
