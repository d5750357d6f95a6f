"""Normalization: LN and dLN (A 1.3.3, B 4.4.6), RMS and dRMS."""

from __future__ import annotations

from collections.abc import Mapping

from graphir.ir.operator import Array, Xp, operator
from graphir.operators.special import einsum

# -- LN: layer normalization ------------------------------------------------------------------------------


@operator(
    "LN",
    "X[*b d!], gamma[d!], beta[d!] -> H[*b d!], mean[*b], rstd[*b]",
    auxiliary="mean rstd",
    flops=8,
)
def layer_norm(xp: Xp, X: Array, gamma: Array, beta: Array, *, epsilon: float = 1e-5) -> tuple[Array, Array, Array]:
    """H [*b, D] = γ ⊙ (X − μ) r + β, with μ and σ² over the last dim and r = 1/√(σ² + ε) (Ba et al., 2016).

    The statistics μ [*b] (`mean`) and r [*b] (`rstd`) are results too, cached for dLN.
    """
    mean = X.mean(axis=-1)
    N = X - mean[..., None]
    variance = einsum(xp, "...d,...d->...", N, N) / X.shape[-1]
    rstd = 1 / xp.sqrt(variance + X.dtype.type(epsilon))
    return N * rstd[..., None] * gamma + beta, mean, rstd


@layer_norm.backward(
    "dLN",
    "X[*b d!], gamma[d!], mean[*b], rstd[*b], dH[*b d!] -> dX[*b d!], dgamma[d!], dbeta[d!]",
    depends={"dgamma": "X mean rstd dH", "dbeta": "dH"},
    flops=14,
)
def d_layer_norm(
    xp: Xp,
    X: Array | None,
    gamma: Array | None,
    mean: Array | None,
    rstd: Array | None,
    dH: Array,
    *,
    only: tuple[str, ...],
) -> tuple[Array | None, Array | None, Array | None]:
    """With X̂ = (X − μ) r and g = γ ⊙ dH:  dX = r (g − mean(g) − X̂ mean(g ⊙ X̂)), means over D;
    dγ = Σ dH ⊙ X̂ and dβ = Σ dH, sums over *b."""
    leading = tuple(range(dH.ndim - 1))
    dX = dgamma = None
    dbeta = dH.sum(axis=leading) if "dbeta" in only else None
    if "dX" in only or "dgamma" in only:
        assert X is not None
        assert mean is not None
        assert rstd is not None
        normal = (X - mean[..., None]) * rstd[..., None]
        if "dgamma" in only:
            dgamma = (dH * normal).sum(axis=leading)
        if "dX" in only:
            g = dH * gamma
            along = einsum(xp, "...d,...d->...", g, normal) / X.shape[-1]
            dX = (g - g.mean(axis=-1)[..., None] - normal * along[..., None]) * rstd[..., None]
    return dX, dgamma, dbeta


# -- RMS: by the root of the mean square ------------------------------------------------------------------


_OFFSETS: tuple[Mapping[str, float], ...] = ({}, {"offset": 1.0})


@operator("RMS", "X[*b d!], gamma[d!] -> H[*b d!], rstd[*b]", auxiliary="rstd", flops=4, examples=_OFFSETS)
def rms_norm(xp: Xp, X: Array, gamma: Array, *, epsilon: float = 1e-6, offset: float = 0.0) -> tuple[Array, Array]:
    """H [*b, D] = (γ + offset) ⊙ X r, with r = 1/√(mean X² + ε) over the last dim (Zhang and Sennrich, 2019).

    r [*b] (`rstd`) is a result too, cached for dRMS. `offset` is 1 where a checkpoint stores γ − 1.
    """
    rstd = 1 / xp.sqrt(einsum(xp, "...d,...d->...", X, X) / X.shape[-1] + X.dtype.type(epsilon))
    return X * rstd[..., None] * _weights(gamma, offset), rstd


def _weights(gamma: Array, offset: float) -> Array:
    return gamma + gamma.dtype.type(offset) if offset else gamma


@rms_norm.backward(
    "dRMS",
    "X[*b d!], gamma[d!], rstd[*b], dH[*b d!] -> dX[*b d!], dgamma[d!]",
    depends={"dgamma": "X rstd dH"},
    flops=9,
    examples=_OFFSETS,
)
def d_rms_norm(
    xp: Xp,
    X: Array,
    gamma: Array | None,
    rstd: Array,
    dH: Array,
    *,
    offset: float = 0.0,
    only: tuple[str, ...],
) -> tuple[Array | None, Array | None]:
    """With X̂ = X r and g = (γ + offset) ⊙ dH:  dX = r (g − X̂ mean(g ⊙ X̂)), the mean over D;
    dγ = Σ dH ⊙ X̂, the sum over *b."""
    normal = X * rstd[..., None]
    dX = dgamma = None
    if "dgamma" in only:
        dgamma = (dH * normal).sum(axis=tuple(range(dH.ndim - 1)))
    if "dX" in only:
        assert gamma is not None
        g = dH * _weights(gamma, offset)
        along = einsum(xp, "...d,...d->...", g, normal) / X.shape[-1]
        dX = (g - normal * along[..., None]) * rstd[..., None]
    return dX, dgamma
