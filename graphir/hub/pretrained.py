"""Models that others have trained, as they lie on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import DataError, ModelFileError
from graphir.hub.chat import ChatTemplate
from graphir.hub.formats import Format, format_of
from graphir.hub.names import Names
from graphir.hub.weights import Weights
from graphir.ir.graph import Graph
from graphir.models.blueprint import Blueprint
from graphir.tokenizer import ByteTokenizer, JsonTokenizer

Array = NDArray[Any]


@dataclass(frozen=True)
class Speech:
    """How a model takes and makes text.

    tokenizer    makes it, for who has a text; None where the files have none
    chat         None where they say no template for conversations
    ends         the ids that end a text
    """

    tokenizer: Callable[[], JsonTokenizer | ByteTokenizer] | None = None
    chat: ChatTemplate | None = None
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights: what it is, its parameters by name, and how it speaks.

        model = open_model("SmolLM2-135M-Instruct")
        graph = model.blueprint.graph()
        run = gi.compile(graph, model.blueprint.bind(graph, B=1, S=128))
        run(model.arrays(), {"T": ids, "Y": targets, "positions": positions})

    where      the folder or file that it was read from
    files      those that say what it computes
    format     how the folders of its family are read and written
    weights    its parameters, read-only, as the files have them
    config     the fields of its config.json
    """

    where: Path
    format: Format
    blueprint: Blueprint
    weights: Weights
    speech: Speech = field(default_factory=Speech)
    config: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def arrays(self, dtype: str = "float32") -> dict[str, Array]:
        """All parameters as arrays of that type, ready to be run; those that lie so in the file are views of it."""
        return {name: np.ascontiguousarray(array, dtype) for name, array in self.weights.items()}

    def arrays_of(self, graph: Graph) -> dict[str, Array]:
        """All parameters of a graph of this model, in the types that it has them in.

        Those that it holds as they are stored (`passes.as_stored`) are views of the file, nothing of which is read yet.
        """
        return {each.name: np.ascontiguousarray(self.weights[each.name], each.dtype) for each in graph.parameters}

    def lies(self, dtype: str | None = None) -> Mapping[str, tuple[str, bool]]:
        """How each parameter lies in the files, for `as_stored`: its dtype there, or `dtype`; whether transposed."""
        return {name: (dtype or stored, transposed) for name, (stored, transposed) in self.weights.lies.items()}

    @cached_property
    def longest(self) -> int:
        """How many positions the model was made for."""
        return self.blueprint.sizes["S_max"]

    @cached_property
    def tokenizer(self) -> JsonTokenizer | ByteTokenizer:
        """The model's tokenizer.

        Errors: ModelFileError if there is none, or it has tokens that the model has no row for; DataError if it is
        malformed.
        """
        if self.speech.tokenizer is None:
            raise ModelFileError(f"{self.where} has no tokenizer; a text needs one, a folder a tokenizer.json")
        found = self.speech.tokenizer()
        if found.vocabulary > self.blueprint.sizes["V"]:
            raise ModelFileError(
                f"{self.where}: the tokenizer has ids up to {found.vocabulary - 1}, the model V = "
                f"{self.blueprint.sizes['V']} tokens; they do not belong together"
            )
        return found

    @property
    def fingerprint(self) -> str:
        """A hash of the files that say what the model computes, as they lie there now."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def chat(self) -> ChatTemplate:
        """The model's template for conversations; DataError if it has none."""
        if self.speech.chat is None:
            raise DataError(f"{self.where} has no chat template; give its prompt as it is, without --chat")
        return self.speech.chat


def of_arrays(blueprint: Blueprint, arrays: Mapping[str, Array], speech: Speech) -> Pretrained:
    """A model of these parameters, in no folder yet."""
    format = format_of(blueprint.composition)
    names = parameter_names(format, blueprint)
    tensors = {stored.name: names.join(stored, arrays.__getitem__) for stored in names.stored}
    return Pretrained(Path(), format, blueprint, Weights(names, tensors, format, blueprint.composition.name), speech)


def parameter_names(format: Format, blueprint: Blueprint) -> Names:
    """Where the parameters of the model lie in files."""
    graph = blueprint.graph()
    sizes = blueprint.bind(graph)
    shapes = {each.name: tuple(dim.size(sizes) for dim in each.shape) for each in graph.parameters}
    return Names(format.tensors, blueprint.composition.layers, shapes)
