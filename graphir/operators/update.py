"""Optimizers and learning-rate schedules as operators (B 3.5).

Updates are pure: they return new parameters and new state. That the result may overwrite the operand is
declared (`updates`), and used by whoever has proved that nobody reads the old value afterwards.
`step` counts from 0. An update may be given `ok`, a bool: where that is false, parameters and state stay as they are.
"""

from __future__ import annotations

import math

from graphir.errors import TypeCheckError
from graphir.ir.operator import Array, Xp, operator

_NO_GRADIENT = "an optimizer's update is not differentiated"


def _with_ok(operands: str, results: str) -> tuple[str, str]:
    """The signatures of an update, without and with a word on whether it is to happen."""
    return f"{operands} -> {results}", f"{operands}, ok[] bool -> {results}"


def _unless(xp: Xp, ok: Array | None, made: tuple[Array, ...], old: tuple[Array, ...]) -> tuple[Array, ...]:
    """What was made, or, where the update is not to happen, the old."""
    return made if ok is None else tuple(xp.where(ok, *pair) for pair in zip(made, old, strict=True))


@operator("finite", "norm[] -> ok[] bool", symbol="<∞", no_gradient="it says yes or no", flops=1)
def is_finite(xp: Xp, norm: Array) -> Array:
    """ok: whether norm is a finite number. As the norm of all gradients it is finite if every one of them is."""
    return xp.asarray(xp.isfinite(norm))


@operator(
    "SGD",
    _with_ok("W[*b], dW[*b], u[*b], lr[] float", "W_new[*b], u_new[*b]"),
    elementwise=True,
    updates={"W_new": "W", "u_new": "u"},
    no_gradient=_NO_GRADIENT,
    flops=4,
    examples=({"momentum": 0.9},),
)
def sgd(
    xp: Xp,
    W: Array,
    dW: Array,
    u: Array,
    lr: Array,
    ok: Array | None = None,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> tuple[Array, ...]:
    """W_new, u_new: g = dW + weight_decay · W;  u ← momentum · u + g;  W ← W − lr · u (B 3.5 where both are 0)."""
    u_new = u * u.dtype.type(momentum) + dW
    if weight_decay:
        u_new = u_new + W * W.dtype.type(weight_decay)
    return _unless(xp, ok, (W - u_new * lr.astype(W.dtype), u_new), (W, u))


def _adam_signature(beta1: float, beta2: float, epsilon: float) -> tuple[str, str]:
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and 0 <= epsilon < math.inf):
        raise TypeCheckError(
            f"beta1={beta1}, beta2={beta2}, epsilon={epsilon}: need 0 ≤ beta1 < 1, 0 ≤ beta2 < 1, epsilon ≥ 0"
        )
    return _with_ok("W[*b], dW[*b], m[*b], v[*b], step[] natural, lr[] float", "W_new[*b], m_new[*b], v_new[*b]")


_ADAM_UPDATES = {"W_new": "W", "m_new": "m", "v_new": "v"}


def _moments(
    xp: Xp, dW: Array, m: Array, v: Array, step: Array, lr: Array, beta1: float, beta2: float, epsilon: float
) -> tuple[Array, Array, Array]:
    """The change of W by Adam, and the new moments.

    lr m̂ / (√v̂ + ε) = η m / (√v + ε c) with c = √(1 − β₂ᵗ), η = lr c / (1 − β₁ᵗ): one pass less over memory.
    """
    kind, t = dW.dtype.type, step.astype("float64") + 1
    m_new = m * kind(beta1) + dW * kind(1 - beta1)
    v_new = v * kind(beta2) + dW * dW * kind(1 - beta2)
    c = xp.sqrt(1 - beta2**t)
    eta, floor = lr.astype("float64") * c / (1 - beta1**t), epsilon * c
    change = m_new / (xp.sqrt(v_new) + floor.astype(dW.dtype)) * eta.astype(dW.dtype)
    return change, m_new, v_new


@operator(
    "Adam",
    _adam_signature,
    elementwise=True,
    updates=_ADAM_UPDATES,
    positive="v",
    no_gradient=_NO_GRADIENT,
    flops=12,
)
def adam(
    xp: Xp,
    W: Array,
    dW: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    ok: Array | None = None,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Array, ...]:
    """m ← β₁ m + (1 − β₁) dW;  v ← β₂ v + (1 − β₂) dW²;
    W ← W − lr m̂ / (√v̂ + ε), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ), t = step + 1 (Kingma and Ba, 2015)."""
    change, m_new, v_new = _moments(xp, dW, m, v, step, lr, beta1, beta2, epsilon)
    return _unless(xp, ok, (W - change, m_new, v_new), (W, m, v))


@operator(
    "AdamW",
    _adam_signature,
    elementwise=True,
    updates=_ADAM_UPDATES,
    positive="v",
    no_gradient=_NO_GRADIENT,
    flops=14,
)
def adamw(
    xp: Xp,
    W: Array,
    dW: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    ok: Array | None = None,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Array, ...]:
    """As Adam, with W decayed by lr · weight_decay · W beside it (Loshchilov and Hutter, 2019)."""
    change, m_new, v_new = _moments(xp, dW, m, v, step, lr, beta1, beta2, epsilon)
    shrink = (1 - lr.astype("float64") * weight_decay).astype(W.dtype)
    return _unless(xp, ok, (W * shrink - change, m_new, v_new), (W, m, v))


# -- clipping by the global norm --------------------------------------------------------------------------


@operator("square_sum", "X[*b] -> n[]", symbol="Σ²", no_gradient=_NO_GRADIENT, flops=2)
def square_sum(xp: Xp, X: Array) -> Array:
    """n = Σ X², over all elements."""
    return (X * X).sum()


@operator(
    "clip",
    ("n[] -> c[], norm[]", "n[], s[] -> c[], norm[]"),
    positive="n",
    no_gradient=_NO_GRADIENT,
    examples=({"limit": 1.0},),
)
def clip_factor(xp: Xp, n: Array, s: Array | None = None, *, limit: float) -> tuple[Array, Array]:
    """norm = √n and c = min(1, limit / (norm + 1e-6)): what brings gradients of squared norm n within `limit`.

    Of gradients that are s times too large, norm is that without s, and c divides by s as well.
    """
    norm = xp.sqrt(n) if s is None else xp.sqrt(n) / s
    number = n.dtype.type
    c = xp.minimum(number(1), number(limit) / (norm + number(1e-6)))
    return c if s is None else c / s, norm


@operator("rescale", "X[*b], c[] -> Y[*b]", symbol="×", linear="X", no_gradient=_NO_GRADIENT, flops=1)
def rescale(xp: Xp, X: Array, c: Array) -> Array:
    """Y = c · X, c a scalar of the graph."""
    return X * c


# -- learning rates ---------------------------------------------------------------------------------------

SCHEDULES = ("constant", "linear", "cosine")


def _schedule_signature(kind: str, peak: float, warmup: int, total: int, floor: float) -> str:
    if kind not in SCHEDULES:
        raise TypeCheckError(f"kind={kind!r} is no schedule; choose from {', '.join(SCHEDULES)}")
    if peak <= 0 or warmup < 0 or not 0 <= floor <= peak:
        raise TypeCheckError(
            f"peak={peak}, warmup={warmup}, floor={floor}: need peak > 0, warmup ≥ 0, 0 ≤ floor ≤ peak"
        )
    if kind != "constant" and total <= warmup:
        raise TypeCheckError(f"total={total} must exceed warmup={warmup} for a {kind} schedule")
    return "step[] natural -> lr[] dtype"


@operator(
    "schedule",
    _schedule_signature,
    symbol="η",
    no_gradient=_NO_GRADIENT,
    examples=({"peak": 1e-3, "kind": "cosine", "warmup": 3, "total": 10},),
)
def schedule(
    xp: Xp,
    step: Array,
    *,
    kind: str = "constant",
    peak: float,
    warmup: int = 0,
    total: int = 0,
    floor: float = 0.0,
    dtype: str = "float64",
) -> Array:
    """lr: a linear rise to `peak` over `warmup` steps, then constant, or a linear or cosine fall to `floor`
    at step `total`, and `floor` beyond."""
    t = step.astype("float64")
    if kind == "constant":
        rate = xp.full_like(t, peak)
    else:
        done = xp.minimum((t - warmup) / (total - warmup), 1.0)
        share = 1 - done if kind == "linear" else 0.5 * (1 + xp.cos(xp.pi * done))
        rate = floor + (peak - floor) * share
    if warmup:
        rate = xp.where(t < warmup, peak * (t + 1) / warmup, rate)
    return xp.asarray(rate, dtype=dtype)
