"""Sums, counts and what turns ids into rows or rows into losses: moves, as those of `moves`."""

from __future__ import annotations

from math import prod

import graphir as gi
from graphir.operators import mask_padding
from graphir.operators.attention import softmax_rows
from graphir.operators.loss import log_sum_exp
from tests.campaign.views import merge
from tests.campaign.writer import MOST_DIMS, Writer

# -- sums -------------------------------------------------------------------------------------------------


def sum_over_axes(w: Writer) -> None:
    """Σ over some axes, read plainly, as a broadcast, as a reshape, or in several of these ways."""
    X = w.pick(lambda X: X.type.rank >= 1)
    if X is None:
        return
    axes = sorted(w.rng.sample(range(X.type.rank), w.rng.randint(1, X.type.rank)))
    if len(axes) > 1:
        w.features.add("a sum over several axes")
    total, degree = gi.reduce_sum(X, axes), w.degrees[X]
    if w.chance(0.4):
        # As a mean, so that sums of sums stay of moderate size.
        total = gi.scale(total, by=1 / prod(w.size(X.shape[axis]) for axis in axes))
    ways = w.rng.sample(("plainly", "as a broadcast", "as a reshape"), w.rng.choice((1, 1, 2, 3)))
    for way in ways:
        if way == "plainly":
            w.made(total, degree)
        elif way == "as a broadcast":
            wide = gi.broadcast(total, [X.shape[axis] for axis in axes], axes=axes)
            if w.chance(0.5):
                w.made(gi.add(X, gi.scale(wide, by=-0.5)), degree)
            else:
                w.made(wide, degree)
        elif total.type.rank >= 2:
            w.made(merge(total, 0), degree)
        else:
            continue
        w.features.add(f"a sum read {way}")
    if total not in w.degrees and not any(total in node.inputs for node in w.builder.nodes):
        w.made(total, degree)


def square_sum(w: Writer) -> None:
    """Σ X², beside the path to a loss."""
    X = w.pick()
    assert X is not None
    w.show(gi.square_sum(X))
    w.features.add("a square sum")


def statistics(w: Writer) -> None:
    """A softmax with each row's maximum and sum, or log Σ exp alone, beside the path to a loss."""
    X = w.pick(lambda X: X.type.rank >= 1)
    if X is not None:
        for value in softmax_rows.all(X) if w.chance(0.5) else (log_sum_exp(X),):
            w.show(value)
        w.features.add("statistics of rows")


def count(w: Writer) -> None:
    """How many labels count, beside the path to a loss."""
    labels = w.input("label", w.shape(1, 2), "int64")
    w.show(gi.count_valid(labels, by=w.rng.randint(0, labels.type.rank), dtype=w.dtype))
    w.features.add("a count")


def average(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank == 1)
    if X is not None:
        w.made(gi.average(X), w.degrees[X])
        w.features.add("average")


# -- vocabularies -----------------------------------------------------------------------------------------


def lookup(w: Writer) -> None:
    E = w.pick(lambda X: X.type.rank == 2) if w.chance(0.4) else None
    E = w.argument(w.shape(2, 2)) if E is None else E
    ids = w.input("ids", w.shape(1, 2), "int64")
    if w.fits((*ids.shape, E.shape[1])):
        w.made(gi.lookup(E, ids), w.degrees.get(E, 1))
        w.features.add("lookup")


def cross_entropy(w: Writer) -> None:
    """CE of any value as logits, a part of whose columns may be padding."""
    Z = w.pick(lambda X: X.type.rank >= 1 and X.type.rank < MOST_DIMS)
    if Z is None:
        return
    degree, padded = w.degrees[Z], w.chance(0.2)
    labels = w.input("few" if padded else "label", Z.shape[:-1], "int64")
    if padded:
        Z = mask_padding(Z, valid=max(1, w.size(Z.shape[-1]) - 1))
        w.features.add("padded vocabulary")
    L = w.made(gi.cross_entropy(Z, labels), degree)
    w.features.update(("cross entropy", "ignored labels"))
    if w.chance(0.5):
        total = gi.reduce_sum(w.read(L))
        w.made(gi.divide_by_count(total, gi.count_valid(labels, dtype=L.dtype)), degree)


def positions(w: Writer) -> None:
    X = w.pick(lambda X: X.type.rank >= 2)
    if X is not None:
        *lead, s, d = X.shape
        P = gi.sinusoidal_positions(s=s, d=d, dtype=X.dtype, builder=w.builder)
        w.made(gi.add(X, gi.broadcast(P, lead) if lead else P), w.degrees[X])
        w.features.add("positions")
