"""Backends: plan a graph for given sizes, and run it.

    registry, entries           which backends there are, what each takes and can, and what makes it run
    plan, executable, run       a graph's steps in numbers; the interpreter, and what a run returns
    initialize                  the first content of parameters and state
    machine, device, capacity   what computes here, and whether what is to be run fits into it
    blas, dtypes, arrays        what NumPy multiplies with, floats that it lacks, arrays wherever they lie
    blocks, local_ranks         from whole arrays to the blocks of ranks, and back; which ranks are held here
    communicator                what moves blocks between ranks; buckets: what travels together; replicas: whether what
                                ranks hold alike still is
    compiled, rows              what compiled backends share; numpy and cupy are theirs
    xla                         a backend that hands a graph's kernels to JAX, as one function
    effects, trace, proof       what a call writes, what a program does, and that this is right; inequalities: by which
                                rules it leaves out what nobody sees
    turns, forks                whose turn it is; what a forked child has anew
    indices                     ids out of range, refused where they come in

No engine knows another, and nobody above knows one by name: who wants a backend asks the registry.
"""

if __name__ == "backends":
    raise ImportError("import graphir.backends, not backends: a second copy would see a second operator registry")

from graphir.backends import entries  # which registers them
from graphir.backends.executable import Executable, Run
from graphir.backends.initialize import initialize
from graphir.backends.plan import ExecutionPlan, Step, plan

__all__ = ["Executable", "ExecutionPlan", "Run", "Step", "entries", "initialize", "plan"]
