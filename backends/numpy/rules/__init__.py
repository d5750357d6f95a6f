"""The rules of the dictionary's operators, a file a family, as `graphir.operators` has them.

Importing this package declares all of them. What has none runs its reference kernel.
"""

from graphir.backends.numpy.rules import (
    attention,
    dropout,
    elementwise,
    embedding,
    linear,
    loss,
    normalization,
    precision,
    reduction,
    split_vocabulary,
    update,
)

__all__ = [
    "attention",
    "dropout",
    "elementwise",
    "embedding",
    "linear",
    "loss",
    "normalization",
    "precision",
    "reduction",
    "split_vocabulary",
    "update",
]
