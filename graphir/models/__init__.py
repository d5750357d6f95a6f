"""Ready-made models, written in the public language: the documents' Transformer, B 1.2's plain MLP, and the families
of models that people have.

    transformer     the documents' Transformer and its options
    mlp             the plain MLP
    composition     a Transformer as parts on a residual stream; the parts are in `parts`, their dims in `dims`
    usage           what a graph of one is built for: mask, loss, decoding
    families        GPT-2, Llama, Gemma, BERT, …, each a composition and no code
    blueprint       a composition with the sizes of its dims
    presets         blueprints by name, `llama3-8b`, without weights
    sizes           the sizes of the documents' Transformer, as options
"""

from collections.abc import Callable
from dataclasses import dataclass

from graphir.ir.graph import Graph
from graphir.models.blueprint import Blueprint
from graphir.models.composition import Composition
from graphir.models.families import FAMILIES
from graphir.models.mlp import MlpOptions, mlp
from graphir.models.presets import PRESETS, blueprint
from graphir.models.transformer import Options, transformer
from graphir.models.usage import Usage


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

__all__ = [
    "FAMILIES",
    "MODELS",
    "PRESETS",
    "Blueprint",
    "Composition",
    "Model",
    "Usage",
    "blueprint",
    "mlp",
    "transformer",
]
