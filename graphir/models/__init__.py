"""Ready-made models, written in the public language: the documents' Transformer and B 1.2's plain MLP."""

from graphir.models.mlp import mlp
from graphir.models.transformer import transformer

__all__ = ["mlp", "transformer"]
