"""Numba kernels for the compiled NumPy backend: what a task does between products, in one pass over its rows.

    source        from the expressions of a run (`graphir.backends.rows`) to the text of a kernel
    functions     exp and what follows from it, which kernels call
    build         from text to machine code, kept on disk
    kernels       from the arrays of a tile to a call
    products      of few rows by a matrix of 16 bits, which is widened as it is read

Optional: nothing here is imported before `compile(…, kernels="numba")` asks for it, and Numba only by `build`. Nodes
without a formula, and tiles whose arrays lie in no way for it, are left to NumPy.
"""

from graphir.backends.numpy.fast.kernels import Kernels

__all__ = ["Kernels"]
