"""What S, dS and CE become where the dim that they run over is split (over a vocabulary, as a rule).

Each needs a row's maximum and sums of it; with the row in pieces these are pending, and an AR of one number a
row forms them: no logits are gathered. The same results under the same names, cached ones included.

A rank's piece of a row may be masked as a whole where the row is not: `row_max` is the maximum of what is there, and
only who reads it, when all ranks' are known, tells that a row has no key.

The pieces of S and dS serve rows that are whole, too, where a row's numbers are known from elsewhere: the forward pass
has had the maximum and the sum, and the inner product may be had of others. See `passes.keep_softmax_statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphir.ir.operator import Array, Attributes, Place, Xp, operator
from graphir.ir.traits import SOFTMAX_AGAIN, SOFTMAX_CENTERED
from graphir.ir.value import Value
from graphir.operators.attention import d_softmax, softmax, softmax_rows
from graphir.operators.loss import IGNORE, cross_entropy, losses
from graphir.operators.special import divisor, einsum, shift

_NO_GRADIENT = "it is a piece of an operator taken apart after differentiation"


@operator("row_max", "Z[*b v] -> top[*b]", symbol="max", reduction="max", no_gradient=_NO_GRADIENT, flops=1)
def row_max(xp: Xp, Z: Array) -> Array:
    """top [*b] = max of Z over the last dim."""
    return Z.max(axis=-1)


@operator("exp_sum", "Z[*b v], top[*b] -> s[*b]", symbol="Σexp", no_gradient=_NO_GRADIENT, flops=3)
def exp_sum(xp: Xp, Z: Array, top: Array) -> Array:
    """s [*b] = Σ exp(Z − top) over the last dim, of what is not masked: 0 where nothing else is."""
    return xp.exp(Z - shift(xp, top)[..., None]).sum(axis=-1)


@operator("pick", "Z[*b v], Y[*b] in v -> z[*b]", exempt="ignore", no_gradient=_NO_GRADIENT)
def pick(xp: Xp, Z: Array, Y: Array, *, ignore: int = IGNORE, at: Place) -> Array:
    """z [*b] = Z[Y], each row's logit at its label; 0 where the label is `ignore` or lies in another block."""
    columns = Y - at.start("v")
    here = (ignore != Y) & (columns >= 0) & (columns < Z.shape[-1])
    picked = xp.take_along_axis(Z, (columns * here)[..., None], axis=-1)[..., 0]
    # A choice, not a product: where the label is not here, −∞ may have been picked.
    return xp.where(here, picked, Z.dtype.type(0))


@operator(
    "nll",
    "s[*b], top[*b], z[*b], Y[*b] int -> L[*b], lse[*b]",
    no_gradient=_NO_GRADIENT,
    depends={"lse": "s top"},
    positive="s",
    flops=3,
)
def negative_log_likelihood(
    xp: Xp, s: Array, top: Array, z: Array, Y: Array, *, ignore: int = IGNORE
) -> tuple[Array, Array]:
    """lse = log s + top, L = lse − z; L is 0 where the label is `ignore`, and both are where all of a row is masked."""
    lse = xp.log(divisor(s)) + shift(xp, top)
    return losses(xp, lse, z, (ignore != Y) & (s != 0)), lse


@operator(
    "normalize",
    "Z[*b v], top[*b], s[*b] -> P[*b v]",
    ignores_masked="Z",
    computes=SOFTMAX_AGAIN,
    no_gradient=_NO_GRADIENT,
    flops=3,
)
def normalize(xp: Xp, Z: Array, top: Array, s: Array) -> Array:
    """P = exp(Z − top) / s; 0 where Z is masked, and in a row where all of it is."""
    return xp.exp(Z - shift(xp, top)[..., None]) / divisor(s)[..., None]


@operator("row_dot", "P[*b v], dP[*b v] -> c[*b]", symbol="Σ⊙", no_gradient=_NO_GRADIENT, flops=2)
def row_dot(xp: Xp, P: Array, dP: Array) -> Array:
    """c [*b] = Σ P ⊙ dP over the last dim."""
    return einsum(xp, "...v,...v->...", P, dP)


@operator(
    "center",
    "P[*b v], dP[*b v], c[*b] -> dZ[*b v]",
    vanishes="P",
    computes=SOFTMAX_CENTERED,
    no_gradient=_NO_GRADIENT,
    flops=2,
)
def center(xp: Xp, P: Array, dP: Array, c: Array) -> Array:
    """dZ = P ⊙ (dP − c)."""
    return (dP - c[..., None]) * P


@softmax.decomposition
@softmax_rows.decomposition
def _softmax_apart(operands: Mapping[str, Value], attributes: Attributes, names: Mapping[str, str]) -> dict[str, Value]:
    Z = operands["Z"]
    top = row_max(Z, name=names.get("top", f"{names['P']}.top"))
    s = exp_sum(Z, top, name=names.get("s", f"{names['P']}.sum"))
    return {"P": normalize(Z, top, s, name=names["P"]), "top": top, "s": s}


@d_softmax.decomposition
def _d_softmax_apart(
    operands: Mapping[str, Value], attributes: Attributes, names: Mapping[str, str]
) -> dict[str, Value]:
    P, dP = operands["P"], operands["dP"]
    return {"dZ": center(P, dP, row_dot(P, dP, name=f"{names['dZ']}.dot"), name=names["dZ"])}


@cross_entropy.decomposition
def _cross_entropy_apart(
    operands: Mapping[str, Value], attributes: Attributes, names: Mapping[str, str]
) -> dict[str, Value]:
    Z, Y, ignore = operands["Z"], operands["Y"], attributes["ignore"]
    top = row_max(Z, name=f"{names['L']}.top")
    s = exp_sum(Z, top, name=f"{names['L']}.sum")
    z = pick(Z, Y, ignore=ignore, name=f"{names['L']}.pick")
    L, lse = negative_log_likelihood.all(s, top, z, Y, ignore=ignore, names=[names["L"], names["lse"]])
    return {"L": L, "lse": lse}
