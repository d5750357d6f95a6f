"""Rules of the embedding: lookup and dLookup, on ids [*b] and an embedding matrix [V, D] or a block of its rows.

The gradient adds up rows of equal ids. Sorted by id (stably, so that each sum keeps its order), they are neighbours.
Ids that occur often have a reduction each, of which there cannot be many; the others are added in rounds, the second
occurrences of all of them, then the third. Only the zeros touch the whole of dE.
"""

from __future__ import annotations

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.effects import writes
from graphir.backends.numpy.engine import rules
from graphir.backends.numpy.shared import number
from graphir.ir.operator import Place
from graphir.operators.embedding import d_lookup, lookup

#: Ids that occur more often than this have a reduction each.
_OFTEN = 8


@rules.emits(lookup)
def _lookup(call: Calls, E: Array, T: Array, X: Array, *, at: Place) -> None:
    if E.shape[0] == at.sizes["v"]:
        # Ids are checked before they come here; another mode would make a copy first.
        call(np.take, E, T, 0, X, "clip")
        return
    inside, factor = call.scratch(T.shape, bool), call.scratch((*T.shape, 1), X.dtype)
    call(_take_inside, E, T, at.start("v"), inside, X)
    call(np.copyto, factor[..., 0], inside)
    call(np.multiply, X, factor, X)


@writes("inside", "X")
def _take_inside(E: Array, T: Array, first: int, inside: Array, X: Array) -> None:
    """X = the rows T of the embedding matrix whose block E begins at row `first`; any row where T is in another."""
    rows = T - first
    np.logical_and(rows >= 0, rows < E.shape[0], inside)
    np.take(E, rows, 0, X, "clip")


@rules.emits(d_lookup)
def _d_lookup(call: Calls, T: Array, dX: Array, dE: Array, *, v: int, at: Place) -> None:
    count, width = T.size, dE.shape[1]
    sorted_rows, sums = call.scratch((count, width), dX.dtype), call.scratch((count, width), dX.dtype)
    call(np.copyto, dE, number(0, dE.dtype))
    call(_add_rows, T, dX, at.start("v"), sorted_rows, sums, dE)


@writes("sorted_rows", "sums", updates="dE")
def _add_rows(T: Array, dX: Array, first: int, sorted_rows: Array, sums: Array, dE: Array) -> None:
    """dE[T − first] += dX, in a dE of zeros that may have no row for some T."""
    ids = T.reshape(-1) - first
    inside = np.flatnonzero((ids >= 0) & (ids < len(dE)))
    if len(inside) == 0:
        return
    ids = ids[inside]
    order = np.argsort(ids, kind="stable")
    ids, order = ids[order], inside[order]
    starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    counts = np.diff(starts, append=len(ids))
    gathered, added = sorted_rows[: len(ids)], sums[: len(starts)]
    np.take(dX.reshape(-1, dX.shape[-1]), order, 0, gathered, "clip")
    np.take(gathered, starts, 0, added, "clip")
    for nth in range(1, min(int(counts.max()), _OFTEN)):
        more = np.flatnonzero((counts > nth) & (counts <= _OFTEN))
        added[more] += gathered[starts[more] + nth]
    for each in np.flatnonzero(counts > _OFTEN).tolist():
        np.add.reduce(gathered[starts[each] :][: counts[each]], 0, None, added[each])
    dE[ids[starts]] = added
