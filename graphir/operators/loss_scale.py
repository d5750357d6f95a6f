"""The loss scale: a number s by which a loss is multiplied so that its gradients are no zeros in float16.

Notation. Gradients arrive s times too large; norm is that of all of them, divided by s. It is finite if every one of
them is: a NaN or an infinity anywhere in them is one in their sum of squares.
"""

from __future__ import annotations

from graphir.errors import TypeCheckError
from graphir.ir.operator import Array, Xp, operator


def _signature(growth: float, backoff: float, interval: int) -> str:
    if not (growth >= 1 and 0 < backoff <= 1 and interval >= 1):
        raise TypeCheckError(
            f"growth={growth:g}, backoff={backoff:g}, interval={interval}: "
            f"need growth ≥ 1, 0 < backoff ≤ 1, interval ≥ 1"
        )
    return "s[], good[] int, norm[] -> s_new[], good_new[] int, ok[] bool"


@operator(
    "LS",
    _signature,
    updates={"s_new": "s", "good_new": "good"},
    no_gradient="it follows gradients, and has none",
    examples=({"interval": 3},),
)
def adjust_scale(
    xp: Xp, s: Array, good: Array, norm: Array, *, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> tuple[Array, Array, Array]:
    """ok: whether norm is finite. If so, good_new = good + 1, and after `interval` good steps in a row s_new =
    growth · s, unless that is infinite, and the count begins anew; if not, s_new = backoff · s and good_new = 0
    (Micikevicius et al., 2018; constants and order as in PyTorch's GradScaler)."""
    kind, ok = s.dtype.type, xp.isfinite(norm)
    count = xp.where(ok, good + good.dtype.type(1), good.dtype.type(0))
    due, larger = count >= interval, s * kind(growth)
    grown = xp.where(xp.logical_and(due, xp.isfinite(larger)), larger, s)
    s_new = xp.where(ok, grown, s * kind(backoff))
    good_new = xp.where(due, good.dtype.type(0), count)
    return xp.asarray(s_new), xp.asarray(good_new), xp.asarray(ok)
