"""Numba kernels for the compiled NumPy backend: what a task does between products, in one pass over its rows.

    snippets      what an operator computes of one row (elements, rowwise), as expressions
    runs          which nodes of a task one kernel computes
    source        from expressions to the text of a kernel (functions: exp and what follows from it)
    build         from text to machine code, kept on disk
    kernels       from the arrays of a tile to a call

Optional: nothing here is imported before `compile(…, kernels="numba")` asks for it, and Numba only by `build`. Nodes
without a snippet, and tiles whose arrays lie in no way for it, are left to the NumPy rules.
"""

from graphir.backends.numpy.fast.kernels import Kernels
from graphir.backends.rows.runs import Run

__all__ = ["Kernels", "Run"]
