"""CACHE: keys and values of earlier positions, state into which each run writes the rows of its own.

A cache has more rows than have been written. Which of them a query may see is said by their positions
(`scale_mask_by_position`), so rows lie in any order, and the last one is followed by the first: a cache of as many rows
as a window is wide always has what the window shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphir.errors import DimError
from graphir.ir.operator import Array, Xp, operator


def _require_room(sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> None:
    if sizes["s"] > sizes["n"]:
        raise DimError(f"{sizes['s']} rows are to be written into a cache of {sizes['n']}; give it that many at least")


@operator(
    "CACHE",
    "cache[b *h n! d], rows[b *h s! d], start[b] natural -> cache_new[b *h n! d]",
    updates={"cache_new": "cache"},
    requires=_require_room,
    no_gradient="a cache is written where nothing is learned",
    flops=0,
)
def cache_write(xp: Xp, cache: Array, rows: Array, start: Array) -> Array:
    """cache_new [B, N_H, S_k, D_h]: the cache with `rows` [B, N_H, S, D_h] in its rows from `start` [B] on.

    Behind the last row comes the first. The rows alone are written where the old cache is given away.
    """
    own = getattr(xp, "write_rows", None)
    if own is not None:
        return own(cache, rows, start)
    new = cache.copy()
    write_rows(xp, new, rows, start)
    return new


def write_rows(xp: Xp, cache: Array, rows: Array, start: Array) -> None:
    """Writes `rows` into the cache itself."""
    at = (start[:, None] + xp.arange(rows.shape[-2])) % cache.shape[-2]
    *heads, s, d = range(1, rows.ndim)
    axes = (0, s, *heads, d)
    cache.transpose(axes)[xp.arange(len(start))[:, None], at] = rows.transpose(axes)
