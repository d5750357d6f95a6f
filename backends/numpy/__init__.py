"""The compiled NumPy backend: a graph as lists of calls on buffers that are planned and made beforehand.

engine     NumPy's arrays and memory, as `graphir.backends.compiled` asks for them
rules      what each operator is in NumPy calls
compiled   the executable: programs bound to the caller's arrays
results    buffers that belong to whoever holds them
threads    who runs the calls
profile    where the time goes, as profiler measures it
fast       the same work as Numba kernels, where that is asked for
"""

from graphir.backends.numpy import rules  # which declares them
from graphir.backends.numpy.compiled import NumpyExecutable

__all__ = ["NumpyExecutable", "rules"]
