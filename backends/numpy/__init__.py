"""The compiled NumPy backend: a graph as lists of calls on buffers that are planned and made beforehand.

task      a node, fused or not, and the ranges of its loops that each thread works on
causal    what a causal mask spares
tiles     how large the ranges are
storage   whose memory each value has
writer    a task's calls, by the rules of its operators (emission, rules)
program   the calls of all tasks, and how they are bound to the caller's arrays
threads   who runs them
"""

from graphir.backends.numpy.compiled import CompiledExecutable

__all__ = ["CompiledExecutable"]
