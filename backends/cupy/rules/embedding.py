"""Rules of the embedding: lookup, dLookup and sinusoidal positions, on ids [*b] and a block of the matrix E [V, D].

The gradient is added up without atomics: each block of threads owns some rows of dE, goes through all ids in their
order, and adds up what belongs to it. So it writes dE once, zeros included, and no two runs differ.
"""

from __future__ import annotations

import numpy as np

from graphir.backends.compiled.emission import Array
from graphir.backends.cupy.engine import rules
from graphir.backends.cupy.rules.shared import Axis, DeviceCalls, kernel, launch, positions, steps, sum_dtype
from graphir.ir.operator import Place
from graphir.ir.signature import Signature
from graphir.operators.embedding import d_lookup, lookup, sinusoidal_positions

#: Into about so many blocks the rows of dE are shared out: each goes through all ids.
_BLOCKS = 2048
_THREADS = 256


@rules.emits(lookup)
def _lookup(call: DeviceCalls, E: Array, T: Array, X: Array, *, at: Place) -> bool:
    found = _geometry(T, X)
    if found is None:
        return False
    if X.size:
        function = kernel(call, "lookup.cu", 2, Value=E.dtype.name, Id=T.dtype.name)
        outer, inner = found
        lying = (inner.size, outer.x, inner.x, outer.y, inner.y, steps(X)[-1], *steps(E))
        threads = min(_THREADS, -(-X.shape[-1] // 32) * 32)
        width = np.int32(X.shape[-1])
        launch(call, function, T.size, threads, E, T, X, T.size, width, E.shape[0], at.start("v"), *lying)
    return True


@rules.emits(d_lookup)
def _d_lookup(call: DeviceCalls, T: Array, dX: Array, dE: Array, *, v: int, at: Place) -> bool:
    found = _geometry(T, dX)
    if found is None:
        return False
    if dE.size:
        types = {"Value": dX.dtype.name, "Sum": sum_dtype(dX.dtype), "Id": T.dtype.name}
        function = kernel(call, "lookup_gradient.cu", 2, **types)
        rows, width = dE.shape
        share = -(-rows // _BLOCKS)
        outer, inner = found
        lying = (inner.size, outer.x, inner.x, outer.y, inner.y, steps(dX)[-1], *steps(dE))
        numbers = (T.size, np.int32(width), rows, at.start("v"), np.int32(share))
        launch(call, function, -(-rows // share), _THREADS, T, dX, dE, *numbers, *lying)
    return True


def _geometry(T: Array, X: Array) -> list[Axis] | None:
    """The positions *b of T [*b] and X [*b, d]."""
    return positions(T.shape, steps(T), steps(X)[:-1])


@rules.emits(sinusoidal_positions)
def _positions(call: DeviceCalls, P: Array, *, s: int, d: int, dtype: str, at: Place) -> None:
    """They are worked out on the host, when the program is written."""
    first = at.start("s"), at.start("d")
    call(call.engine.copy, P, call.constant(_positions_of, at.rule, first, (s, d), P.shape, dtype))


def _positions_of(
    rule: Signature, first: tuple[int, int], sizes: tuple[int, int], shape: tuple[int, int], dtype: str
) -> Array:
    """The block of `shape` from `first` on, of positions of `sizes`."""
    at = Place(rule, dict(zip("sd", first, strict=True)), dict(zip("sd", sizes, strict=True)))
    made = sinusoidal_positions.kernel(np, s=sizes[0], d=sizes[1], dtype=dtype, shape=shape, at=at)
    return np.asarray(made)
