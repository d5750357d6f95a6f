"""The compiled CuPy backend: a graph as CUDA graphs of calls on a GPU's memory, planned and made beforehand.

device       CuPy, loaded when it is asked for, and what is known of the GPU
engine       CuPy's arrays and memory, as `graphir.backends.compiled` asks for them
rules        what each operator is in CuPy's, cuBLAS's and our own kernels
executable   programs that are run: capture makes CUDA graphs of them, staging sends NumPy's arrays there
"""

from graphir.backends.cupy import rules  # which declares them
from graphir.backends.cupy.executable import CupyExecutable

__all__ = ["CupyExecutable", "rules"]
