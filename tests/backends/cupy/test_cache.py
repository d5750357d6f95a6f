"""CACHE on a device: rows are written where the cache lies, and nothing else of it."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  NumPy learns of bfloat16
import numpy as np
import pytest

import graphir as gi
from graphir.backends.cupy.engine import rules
from graphir.backends.cupy.rules import cache  # noqa: F401  declares it
from tests.cuda import emulator
from tests.cuda.harness import HostEngine, HostExecutable, launched

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))


class Engine(HostEngine):
    def __init__(self) -> None:
        self.rules = rules


def executed(donate: bool, heads: tuple[int, ...] = (3,), dtype: str = "float32") -> Any:
    """The calls, the result, and what it is to be: seven rows of each of two sequences, two of them new."""
    block = gi.Builder("state")
    shape, new = (2, *heads, 7, 5), (2, *heads, 2, 5)
    kept = block.state("cache", shape, dtype)
    rows = block.input("rows", new, dtype)
    graph = block.build(gi.cache_write(kept, rows, block.input("start", (2,), "int32"), name="new"))
    planned = gi.compile(graph, {}, donate=donate)
    run = HostExecutable(planned.plan, planned.optimised, Engine(), donate=donate, check=True)
    rng = np.random.default_rng(0)
    state = rng.standard_normal(shape).astype(dtype)
    given = {"rows": rng.standard_normal(new).astype(dtype), "start": np.int32([6, 9])}
    made = run({"cache": state, **given})["new"]
    wanted = state.copy()
    for b, at in enumerate((6, 2)):
        for i in range(2):
            wanted[b, ..., (at + i) % 7, :] = given["rows"][b, ..., i, :]
    return run, made, wanted


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_rows_are_written_where_the_cache_lies(dtype: str) -> None:
    run, made, wanted = executed(True, dtype=dtype)
    assert np.array_equal(made, wanted)
    launches, others = launched(run)
    assert (launches, others) == (1, [])


def test_of_a_cache_that_is_kept_a_copy_is_made() -> None:
    run, made, wanted = executed(False, heads=(2, 3))
    assert np.array_equal(made, wanted)
    launches, others = launched(run)
    assert (launches, len(others)) == (1, 1)
