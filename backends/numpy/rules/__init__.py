"""The rules of operators that NumPy computes faster, or only, in a form of their own, a file a family.

Importing this package declares all of them. What has none is recorded by its formula; what has no formula either runs
its reference kernel.
"""

from graphir.backends.numpy.rules import activations, cache, cast, embedding, linear, loss

__all__ = ["activations", "cache", "cast", "embedding", "linear", "loss"]
