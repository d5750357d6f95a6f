"""Operators of nobody's dictionary: as models have them, with their gradients, and whatever kernels are drawn.

What is made of a kernel's formula, and where its results may lie, is tried so on kernels that no rule was written for.
"""

from __future__ import annotations

from collections.abc import Sequence

import graphir as gi
from graphir.ir.value import Value
from tests.campaign.writer import Writer
from tests.support.own_operators import gated, rotary, rotary_interleaved, swiglu, unit_norm
from tests.support.random_halves import draw_halved
from tests.support.random_kernels import draw_operator

#: All are declared as soon as this is imported, so that a case's text can be read.
HALVED = tuple(map(draw_halved, range(40)))
DRAWN = tuple(map(draw_operator, range(20)))
FEATURES = ("unit norm", "SwiGLU", "a gate", "rotary", "a drawn kernel", "a drawn kernel of parts")


def own(w: Writer) -> None:
    """One of them."""
    w.rng.choice((_norm, _gate, _parts, _parts, _drawn, _halved, _halved))(w)


# -- as models have them ----------------------------------------------------------------------------------


def _norm(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank >= 1)
    if X is not None:
        # A generous ε, as of layer norms.
        w.made(unit_norm(X, w.argument(X.shape[-1:], X.dtype), epsilon=0.1), 1)
        w.features.add("unit norm")


def _gate(w: Writer) -> None:
    X = w.pick(lambda X: w.can_multiply(X, X))
    if X is not None:
        others = [Y for Y in w.degrees if Y.type == X.type and w.can_multiply(X, Y)]
        Y = w.read(w.rng.choice(others))
        w.made(gated(X, Y), w.degrees[X] + w.degrees[Y])
        w.features.add("a gate")


def _parts(w: Writer) -> None:
    """SwiGLU, or planes that are turned by angles."""
    X = _even(w, 2)
    if X is None:
        return
    degree = w.degrees[X]
    if w.chance(0.4) and w.can_multiply(X, X):
        w.made(swiglu(X), 2 * degree)
        w.features.add("SwiGLU")
    else:
        # Of angles there is no gradient, so that nobody is to ask for one.
        cos = gi.sinusoidal_positions(s=X.shape[-2], d=X.shape[-1] / 2, dtype=X.dtype, builder=w.builder)
        w.made(w.rng.choice((rotary, rotary_interleaved))(X, cos, gi.scale(cos, by=-0.5)), degree)
        w.features.add("rotary")


def _even(w: Writer, least: int = 1) -> Value | None:
    """A value whose last dim has two parts, as often as not one that was made."""
    X = w.pick(lambda X: X.type.rank >= least and X.shape[-1].coefficient == 2) if w.chance(0.5) else None
    if X is None:
        *lead, d = w.shape(least)
        if not w.fits((*lead, 2 * d)):
            return None
        X = w.argument((*lead, 2 * d))
        w.degrees[X] = 1
    if w.chance(0.4):
        return w.read(w.made(gi.scale(X, by=-0.5), w.degrees[X]))
    return X


# -- as they are drawn, beside the path to a loss ---------------------------------------------------------


def _drawn(w: Writer) -> None:
    """Of arguments: it compares numbers, and which of two is larger must not follow from rounding."""
    *lead, d = w.shape()
    wide = [w.argument((*lead, d)) for _ in range(2)]
    results = w.rng.choice(DRAWN).all(*_read_again(w, wide), w.argument((d,)), w.argument(lead))
    _show(w, results)
    w.features.add("a drawn kernel")


def _halved(w: Writer) -> None:
    X = _even(w)
    if X is None:
        return
    like = [Y for Y in w.degrees if Y.type == X.type]
    Y = w.rng.choice(like) if w.chance(0.5) else gi.scale(w.rng.choice(like), by=0.5)
    U, weights = (w.argument(shape, X.dtype) for shape in ((*X.shape[:-1], X.shape[-1] / 2), (X.shape[-1] / 2,)))
    _show(w, w.rng.choice(HALVED).all(X, Y, *_read_again(w, [U]), weights))
    w.features.add("a drawn kernel of parts")


def _read_again(w: Writer, values: Sequence[Value]) -> list[Value]:
    """These, or what is made of them, and so may be written over."""
    return [gi.scale(value, by=-0.5) if w.chance(0.5) else value for value in values]


def _show(w: Writer, results: Sequence[Value]) -> None:
    """Some of the results, as they are or read once more."""
    for value in w.rng.sample(list(results), w.rng.randint(1, len(results))):
        w.show(gi.scale(value, by=2.0) if w.chance(0.5) else value)
