"""Products of few rows by a matrix of bfloat16: Numba reads its bits, whichever way it lies, and BLAS has more rows."""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.backends.compiled.tiles import Tiling
from graphir.passes import as_stored

bfloat16 = pytest.importorskip("ml_dtypes", reason="the extra `bfloat16` is not installed").bfloat16
pytest.importorskip("numba", reason="the extra `fast` is not installed")

#: Tiles of a few columns.
NARROW = Tiling(bytes=1 << 10, casts=1 << 9, small=0, causal=(4, 8))


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(("B", "S"), [(1, 1), (2, 2), (3, 1), (5, 1)])
def test_rows_are_multiplied_by_the_bits_of_a_matrix(B: int, S: int, transposed: bool) -> None:
    dims = gi.dims("B S D F")
    build = gi.Builder("product")
    X, W = build.input("X", (*dims[:2], dims[2])), build.parameter("W", dims[2:])
    graph = as_stored(build.build(gi.matmul(X, W, name="Y")), {"W": ("bfloat16", transposed)})
    draw = np.random.default_rng(B)
    D, F = (int(each) for each in draw.integers(20, 70, 2))
    x = draw.standard_normal((B, S, D), np.float32)
    w = draw.standard_normal((D, F), np.float32).astype(bfloat16)
    w[0, 0], w[1, 1] = np.inf, 2.0**-130  # what is no number, or below the smallest normal one, is read as it is
    run = gi.compile(graph, {"B": B, "S": S, "D": D, "F": F}, kernels="numba", tiling=NARROW, threads=2, check=True)
    Y = run({"X": x, "W.stored": np.ascontiguousarray(w.T if transposed else w)})["Y"]
    np.testing.assert_allclose(Y, x @ w.astype(np.float32), rtol=1e-4, atol=1e-5)
    calls = [function for segment in run.programs[0].segments for each in segment.calls for function, _ in each]
    assert (np.matmul in calls) == (B * S > 4)
