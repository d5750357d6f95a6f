"""The compiled CuPy backend: a graph as CUDA graphs of calls on a GPU's memory, planned and made beforehand.

    engine       CuPy's arrays and memory, as `graphir.backends.compiled` asks for them
    executable   programs that are run: capture makes CUDA graphs of them, staging sends NumPy's arrays there
    kernels      fused kernels for all that has a formula (`graphir.backends.rows`), elementwise or row by row
    launch       from the arrays of a tile to a launch: form says which threads do what, source, row_body, scalars and
                 text write the CUDA, module compiles it
    attention    its core in one kernel, which attention_match recognises; sight: what arguments say who sees whom
    rules        what those do not cover: products (matmul, cublas), the embedding, reductions
    cuda         what is written by hand

CuPy itself is loaded by `graphir.backends.device`, when it is asked for.

Products are cuBLAS calls on views, through its C interface, for CuPy's own refuses to be captured. Attention's core is
recognised by its nodes and becomes one kernel, two for its gradient, wherever nobody else reads the scores. The forward
pass leaves each row's maximum and sum, and Σ P ⊙ dP = Σ O ⊙ dO (`graphir.passes.softmax_statistics`), so that the
gradient goes over the scores once.

Where positions, a window, documents or padding say who sees whom, a block of threads neither computes nor loads the
keys, or queries, of which none of its own may see one: told in the kernel from the least and the greatest of what its
rows have, by the rule that follows from the mask's formula (`compiled.bounds`) and is proved as any program's is.

Buffers stay where they are, so that the calls between two exchanges are captured as one CUDA graph by the second run,
and replayed from then on; seed, step and learning rate are read on the device. Training gives an odd vocabulary rows of
zeros up to V_pad (`graphir.training.vocabulary`), since tensor cores and packed loads want rows of whole 16 bytes: the
mask is a comparison in the kernels of CE and dCE, and the padding's gradient is exactly zero.

The tests hold it to the interpreter over `tests/cuda`, a stand-in for CuPy on the host, where the CUDA sources run,
compiled as C++, and under `pytest -m gpu` on a device; there the tests of the stand-in run against CuPy itself. The
stand-in's streams can be made to work as late as they may, so that who does not wait is found out.
"""

from graphir.backends.cupy import rules  # which declares them
from graphir.backends.cupy.executable import CupyExecutable

__all__ = ["CupyExecutable", "rules"]
