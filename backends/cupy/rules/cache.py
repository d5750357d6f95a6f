"""The rule of CACHE: in a cache that is written in place nothing but the new rows is touched."""

from __future__ import annotations

import math

import numpy as np

from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.engine import rules
from graphir.backends.cupy.module import compiled
from graphir.backends.cupy.rules.shared import DeviceCalls, launch, positions, source, steps
from graphir.backends.effects import launches
from graphir.operators.cache import cache_write

_THREADS = 128


@rules.emits(cache_write, inplace={"cache_new": "cache"})
def _cache_write(call: DeviceCalls, cache: Array, rows: Array, start: Array, cache_new: Array) -> bool:
    heads = positions(rows.shape[1:-2], steps(cache_new)[1:-2], steps(rows)[1:-2])
    if heads is None:
        return False
    if not call.engine.xp.may_share_memory(cache, cache_new):
        call(call.engine.copy, cache_new, cache)
    if rows.size:
        text = source("cache.cu", Value=rows.dtype.name, Id=start.dtype.name)
        function = launches(compiled(call.engine.xp, text), [0], [0])
        (news, width), (outer, inner) = rows.shape[-2:], heads
        of_cache = (steps(cache_new)[0], outer.x, inner.x, *steps(cache_new)[-2:])
        of_rows = (steps(rows)[0], outer.y, inner.y, *steps(rows)[-2:])
        sizes = math.prod(rows.shape[1:-2]), inner.size, news, cache_new.shape[-2], np.int32(width)
        threads = min(_THREADS, -(-width // 32) * 32)
        lying = (*of_cache, *of_rows, *steps(start))
        launch(call, function, rows.size // width, threads, cache_new, rows, start, rows.size // width, *sizes, *lying)
    return True
