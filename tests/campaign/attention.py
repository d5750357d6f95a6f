"""Attention, as people write it: what is projected and what is not, where heads and batch stand, who sees whom.

A *style* says where the heads come from and how dims are ordered:

    plain       scores of X [.., s, d] as it is, or of a projection; no heads
    heads       [b, s, (h e)] split into heads, T to [b, h, s, e], and back by T and C
    merged      as heads, with b and h merged into one dim, as a batched product of rank 3
    sequence    [s, b, (h e)]: the sequence first
    grouped     N_H = N_KV · G: G queries to a head of K and V, K and V broadcast or G left a dim of Q alone
    shared      one head of K and V for all heads of Q, which are multiplied as more rows, [b, (h s), e]
"""

from __future__ import annotations

import graphir as gi
from graphir.ir.dims import as_dim
from graphir.ir.value import Value
from tests.campaign.views import merge
from tests.campaign.writer import Writer

STYLES = ("plain", "heads", "merged", "sequence", "grouped", "shared")
MASKS = ("no mask", "given mask", "padding mask", "causal mask", "all masks together")
FEATURES = (
    *(f"attention: {style}" for style in STYLES), *MASKS, "Q = K = V", "symmetric scores", "scores as a result",
    "dropout in attention", "S • X and Sᵀ • X", "scores seen otherwise",
)  # fmt: skip


def attention(w: Writer) -> None:
    """One layer's attention of a value that has been made, or of a new argument."""
    style = w.rng.choice(STYLES)
    if style == "plain":
        X = w.pick(lambda X: X.type.rank >= 2)
        X = w.argument(w.shape(2, 3)) if X is None or w.chance(0.3) else X
        roles = _roles(w, X)
        if roles is not None:
            _core(w, *roles)
            w.features.add("attention: plain")
        return
    b, s, h, e, g = (w.rng.choice(w.dims) for _ in range(5))
    if style != "grouped":
        g = as_dim(1)
    if not (w.fits((b, h, g, s, s)) and w.fits((b, s, h * g * e)) and w.fits((h * g * e, h * g * e))):
        return
    shape = (s, b, h * g * e) if style == "sequence" else (b, s, h * g * e)
    X = w.pick(lambda X: X.shape == shape)
    X = w.argument(shape) if X is None else X
    if w.chance(0.2):
        w.made(X, 1)
    if style == "shared":
        out = _shared(w, X, h, e)
    else:
        roles = _grouped(w, X, h, g, e) if style == "grouped" else _split(w, X, style, h)
        out = None if roles is None else _core(w, *roles)
    if out is None:
        return
    w.features.add(f"attention: {style}")
    w.made(_joined(w, out, style, b, h), 1)


def _projected(w: Writer, X: Value, width: gi.Dim) -> Value:
    W = w.argument((X.shape[-1], width), X.dtype)
    return gi.matmul(X, W)


def _roles(w: Writer, X: Value) -> tuple[Value, Value, Value] | None:
    """Q, K and V [.., s, d] of X: X itself in all roles, or some of them projected."""
    if w.chance(0.5):
        w.features.update(("Q = K = V", "symmetric scores"))
        return X, X, X
    if not w.fits((X.shape[-1], X.shape[-1])):
        return None
    some = [_projected(w, X, X.shape[-1]) if w.chance(0.5) else X for _ in range(3)]
    return some[0], some[1], some[2]


def _split(w: Writer, X: Value, style: str, h: gi.Dim) -> tuple[Value, Value, Value] | None:
    """Q, K and V with heads in front of the sequence."""
    roles = _roles(w, X)
    if roles is None:
        return None
    # A value that has several roles is split once for all, or once for each.
    made: dict[Value, Value] = {}
    found = []
    for role in roles:
        if role not in made or w.chance(0.3):
            apart = gi.reshape(role, "a b (h e) -> a b h e", h=h)
            heads = gi.transpose(apart, (1, 2, 0, 3) if style == "sequence" else (0, 2, 1, 3))
            made[role] = merge(heads, 0) if style == "merged" else heads
        found.append(made[role])
    return found[0], found[1], found[2]


def _grouped(w: Writer, X: Value, h: gi.Dim, g: gi.Dim, e: gi.Dim) -> tuple[Value, Value, Value] | None:
    """Q [b, h, g, s, e] of h · g heads; K and V of h, repeated for each of g."""
    if not (w.fits((X.shape[-1], h * e))):
        return None
    Q = gi.transpose(gi.reshape(X, "b s (h g e) -> b s h g e", h=h, g=g), (0, 2, 3, 1, 4))
    narrow = [_projected(w, X, h * e) for _ in range(1 if w.chance(0.3) else 2)]
    wide = []
    for each in narrow:
        heads = gi.transpose(gi.reshape(each, "b s (h e) -> b s h e", h=h), (0, 2, 1, 3))
        wide.append(gi.broadcast(heads, (g,), axes=(2,)))
    return Q, wide[0], wide[-1]


def _shared(w: Writer, X: Value, h: gi.Dim, e: gi.Dim) -> Value | None:
    """Attention of h heads of Q to one of K and V."""
    b, s, _ = X.shape
    if not (w.fits((X.shape[-1], e)) and w.fits((b, h, s, s))):
        return None
    heads = gi.transpose(gi.reshape(X, "b s (h e) -> b s h e", h=h), (0, 2, 1, 3))
    K, V = _projected(w, X, e), _projected(w, X, e)
    A = gi.reshape(gi.matmul(merge(heads, 1), gi.transpose(K)), "b (h s) k -> b h s k", h=h)
    P = _weights(w, A, e)
    return gi.reshape(gi.matmul(merge(P, 1), V), "b (h s) e -> b h s e", h=h)


def _joined(w: Writer, out: Value, style: str, b: gi.Dim, h: gi.Dim) -> Value:
    """The heads' results side by side again."""
    if style == "merged":
        out = gi.reshape(out, "(b h) s e -> b h s e", b=b, h=h)
    if style == "grouped":
        back = gi.transpose(out, (0, 3, 1, 2, 4))
        return merge(back, 2, 3) if w.chance(0.5) else gi.concatenate(gi.concatenate(back))
    back = gi.transpose(out, (2, 0, 1, 3) if style == "sequence" else (0, 2, 1, 3))
    return gi.concatenate(back) if w.chance(0.5) else merge(back, 2)


def _core(w: Writer, Q: Value, K: Value, V: Value) -> Value | None:
    """P • V, P = S(SM(Q • Kᵀ)), with any of the masks."""
    *lead, s, d = Q.shape
    if not w.fits((*lead, s, s)):
        return None
    P = _weights(w, gi.matmul(Q, gi.transpose(K)), d)
    if w.chance(0.1) and Q.type.rank == 2:
        w.made(gi.matmul(gi.transpose(P), V), 1)
        w.features.add("S • X and Sᵀ • X")
    out = gi.matmul(P, V)
    return w.made(out, 1)


def _weights(w: Writer, A: Value, d: gi.Dim) -> Value:
    """What scores A = Q • Kᵀ of heads that are d wide are made into: P = S(SM(A)), maybe with dropout."""
    Z = _masked(w, A, d) if A.type.rank >= 3 else gi.scale(A, by=w.size(d) ** -0.5)
    P = gi.softmax(Z)
    # In half of the layers nobody else reads the scores, so that they may be fused, and of causal ones a half stored.
    if w.chance(0.5):
        for value in (A, P):
            if w.chance(0.3):
                w.made(value, 2)
                w.features.add("scores as a result")
            if w.chance(0.2):
                w.made(_seen_otherwise(w, value), 2)
                w.features.add("scores seen otherwise")
        if w.chance(0.3):
            w.show(Z)
    if w.chance(0.3):
        seed, step = (w.input(name, (), "int64") for name in ("seed", "step"))
        P = gi.dropout(P, seed, step, p=w.rng.choice((0.1, 0.5)))
        w.features.add("dropout in attention")
    return P


def _seen_otherwise(w: Writer, scores: Value) -> Value:
    """Scores as a map of keys to queries, that and themselves, or as rows of another length."""
    rank = scores.type.rank
    turned = gi.transpose(scores)
    return w.rng.choice((turned, gi.add(scores, turned), merge(scores, rank - 2), merge(scores, max(rank - 3, 0))))


def _masked(w: Writer, A: Value, width: gi.Dim) -> Value:
    """SM: scaled, and masked in one of the ways, or in all of them, one SM after the other."""
    way = w.rng.choices(MASKS, (1, 1, 1, 3, 1))[0]
    w.features.add(way)
    causal = way == "causal mask" or (way in ("given mask", "padding mask") and w.chance(0.3))
    if way == "all masks together":
        first = w.rng.choice(("given", "padding"))
        Z = gi.scale_mask(A, _keep(w, A, first), width=width, causal=True, mask=first)
        second = "padding" if first == "given" else "given"
        return gi.scale_mask(Z, _keep(w, A, second), width=1, mask=second)
    mask = {"given mask": "given", "padding mask": "padding"}.get(way, "none")
    keep = [] if mask == "none" else [_keep(w, A, mask)]
    return gi.scale_mask(A, *keep, width=width, causal=causal, mask=mask)


def _keep(w: Writer, A: Value, mask: str) -> Value:
    shape = A.shape[-2:] if mask == "given" else (A.shape[0], A.shape[-1])
    return w.input("keep", shape, "bool")
