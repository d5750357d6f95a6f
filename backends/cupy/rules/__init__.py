"""The rules of what fused kernels do not cover: products, the embedding, reductions, caches. A file a family.

Importing this package declares all of them. What has neither a rule nor a formula (`graphir.formula`) runs its
reference kernel over CuPy, which may allocate and wait for the device, and so keeps its part of a step from being
captured: of the dictionary these are the tokenizer and TOP-k.
"""

from graphir.backends.cupy.rules import cache, embedding, linear, reduction

__all__ = ["cache", "embedding", "linear", "reduction"]
