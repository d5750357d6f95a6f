"""The compiled NumPy backend: a graph as lists of calls on buffers that are planned and made beforehand.

prepared   all that is decided before anything is allocated, by way of
task       a node, fused or not, and the ranges of its loops that each thread works on
causal     what a causal mask spares
tiles      how large the ranges are
storage    whose memory each value has, and one arena; memory says what that comes to
writer     a task's calls, by the rules of its operators (emission, rules)
program    the calls of all tasks, and how they are bound to the caller's arrays
results    buffers that belong to whoever holds them
exchanges  what ranks send each other between the calls
threads    who runs them
profile    where the time goes, as profiler measures it
fast       the same work as Numba kernels, where that is asked for
"""

from graphir.backends.numpy import rules  # which declares them
from graphir.backends.numpy.compiled import CompiledExecutable

__all__ = ["CompiledExecutable", "rules"]
