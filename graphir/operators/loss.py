"""Cross-entropy and its mean over the valid tokens: CE, dCE, count, ÷ (A 1.5.3, B 5.5)."""

from __future__ import annotations

from graphir.ir.operator import Array, Place, Xp, operator

#: The label that counts for nothing: padding, or a target that is not to be learnt. PyTorch's value.
IGNORE = -100


@operator(
    "CE",
    "Z[*b v!], Y[*b] in v -> L[*b], lse[*b]",
    auxiliary="lse",
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


@cross_entropy.backward("dCE", "Z[*b v], lse[*b], Y[*b] in v, dL[*b] -> dZ[*b v]", flops=4)
def d_cross_entropy(xp: Xp, Z: Array, lse: Array, Y: Array, dL: Array, *, ignore: int = IGNORE, at: Place) -> Array:
    """dZ = (P − onehot(Y)) dL with P = exp(Z − lse); 0 where Y is `ignore`."""
    dZ = Z - lse[..., None]
    xp.exp(dZ, out=dZ)
    valid = ignore != Y
    rows = dZ.reshape(-1, dZ.shape[-1])
    columns = Y.reshape(-1) - at.start("v")
    here = xp.nonzero(valid.reshape(-1) & (columns >= 0) & (columns < rows.shape[1]))[0]
    rows[here, columns[here]] -= 1
    dZ *= (dL * valid)[..., None]
    return dZ


@operator(
    "count",
    "Y[*b] int -> n[] dtype",
    symbol="#",
    no_gradient="a number of labels does not depend on anything that is trained",
)
def count_valid(xp: Xp, Y: Array, *, ignore: int = IGNORE, dtype: str = "float32") -> Array:
    """n: how many labels of Y [B, S] are not `ignore`."""
    return (ignore != Y).sum().astype(dtype)


@operator(
    "size",
    "X[*b] -> n[]",
    symbol="#",
    no_gradient="a number of elements does not depend on what they are",
)
def count_elements(xp: Xp, X: Array) -> Array:
    """n: how many elements X has."""
    return xp.asarray(X.size, dtype=X.dtype)


@operator("div", "X[], n[] -> Y[]", symbol="÷", linear="X", flops=1)
def divide(xp: Xp, X: Array, n: Array) -> Array:
    """Y = X / max(n, 1): a mean over n tokens, 0 where there are none."""
    return X / xp.maximum(n, n.dtype.type(1))


@divide.backward("dDiv", "n[], dY[] -> dX[]", symbol="d÷", linear="dY", flops=1)
def d_divide(xp: Xp, n: Array, dY: Array) -> Array:
    """dX = dY / max(n, 1); n counts tokens and gets no gradient."""
    return dY / xp.maximum(n, n.dtype.type(1))


@operator("one", "-> dL[] dtype", symbol="1", no_gradient="it is a constant")
def one(xp: Xp, *, dtype: str = "float32") -> Array:
    """dL = ∂L/∂L = 1: where the backward pass starts."""
    return xp.ones((), dtype=dtype)
