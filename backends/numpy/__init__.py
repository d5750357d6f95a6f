"""The compiled NumPy backend: a graph as lists of calls on buffers that are planned and made beforehand.

    engine      NumPy's arrays and memory, as `graphir.backends.compiled` asks for them
    compiled    the executable: programs bound to the caller's arrays
    results     buffers that belong to whoever holds them
    threads     who runs the calls
    profile     where the time goes, as profiler measures it
    fast        what lies between products as Numba kernels, where that is asked for

How a node becomes calls:

    recipe      a formula as NumPy computes it best: which steps, and what of them is known before a run
    formulas    the steps as calls on one tile, each into memory that is free by then
    tile_arrays the tile's arrays as a formula sees them: with an axis for every factor
    known       what is known before a run: numbers, and how the places of a tile lie to each other
    sums        sums as NumPy and BLAS add up fastest: often a product with ones, or with weights
    masks       dropout's masks
    guarded     calls that are carried out only if a condition holds: an update that may not happen
    calls       functions of elements that NumPy has no call for
    rules       what overrides a formula: products, the embedding, activations, the gradient of the loss
    shared      constants as arrays, inner products, polynomials, for rules and formulas
    precision   products of 16-bit operands, which BLAS has in float32 and float64 alone

An operator with a rule of its own is recorded by that, one with a formula by `formulas.rule_of`; what has neither is
called as it was written. Where all this is decided is `graphir.backends.compiled.writer`.
"""

from graphir.backends.numpy import rules  # which declares them
from graphir.backends.numpy.compiled import NumpyExecutable

__all__ = ["NumpyExecutable", "rules"]
