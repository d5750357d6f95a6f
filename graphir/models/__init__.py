"""Ready-made models, written in the public language: the documents' Transformer and B 1.2's plain MLP."""

from collections.abc import Callable
from dataclasses import dataclass

from graphir.ir.graph import Graph
from graphir.models.mlp import MlpOptions, mlp
from graphir.models.transformer import Options, transformer


@dataclass(frozen=True)
class Model:
    """A model by what builds it, of keywords, what declares these, and the values that it is run for, once trained."""

    build: Callable[..., Graph]
    options: type
    answers: tuple[str, ...]


#: The models by name.
MODELS = {
    "transformer": Model(transformer, Options, ("output/Z_bias",)),
    "mlp": Model(mlp, MlpOptions, ("Y",)),
}

__all__ = ["MODELS", "Model", "mlp", "transformer"]
