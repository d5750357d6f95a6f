"""The rule of CACHE: in a cache that is written in place nothing but the new rows is touched."""

from __future__ import annotations

import numpy as np

from graphir.backends.compiled.emission import Array, Calls
from graphir.backends.effects import writes
from graphir.backends.numpy.engine import rules
from graphir.operators import cache as caches
from graphir.operators.cache import cache_write


@rules.emits(cache_write, inplace={"cache_new": "cache"})
def _cache_write(call: Calls, cache: Array, rows: Array, start: Array, cache_new: Array) -> None:
    if not np.may_share_memory(cache, cache_new):
        call(np.copyto, cache_new, cache)
    call(_write_rows, cache_new, rows, start)


@writes(updates="cache")
def _write_rows(cache: Array, rows: Array, start: Array) -> None:
    """The rows from `start` on, of each b, and of the first row on what does not fit behind it."""
    caches.write_rows(np, cache, rows, start)
