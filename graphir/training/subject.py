"""What a training trains: the documents' Transformer or a model by name in some size, or a model with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphir.errors import ConfigError, meant
from graphir.hub import Pretrained, Speech, of_arrays, open_model, write_folder
from graphir.ir.graph import Graph
from graphir.ir.value import of_stored
from graphir.models import Blueprint, transformer
from graphir.models.sizes import STORED
from graphir.passes import adapters, as_stored, lora
from graphir.passes.lora import R, reads_matrix
from graphir.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer
from graphir.training.config import TrainConfig

Arrays = Mapping[str, NDArray[Any]]

#: The parameter [V, D] that says how many tokens a trained model has.
_EMBEDDING = "embedding/E"


class Subject(Protocol):
    """A model that can be trained."""

    def graph(self, dropout: float, padded: bool) -> Graph:
        """The forward graph with its loss; of a vocabulary of V_pad rows if `padded`."""

    def trained(self, graph: Graph) -> list[str] | None:
        """The parameters of this graph that are trained; None: all of them."""

    def tokens(self, vocabulary: int) -> int:
        """V, where the tokenizer has a vocabulary of that size; ConfigError where that does not fit."""

    def sizes(self, tokens: int) -> dict[str, int]:
        """The numbers of its dims, of a batch's and of V = `tokens`; ConfigError for a batch that it cannot take."""

    def weights(self) -> Arrays:
        """What parameters start as, but for those that are drawn."""

    def speaking(self, **choice: Any) -> Graph:
        """The forward graph with a decoding branch, as `Usage` has it."""

    @property
    def base(self) -> str | None:
        """A hash of what is not trained, and what checkpoints do not hold; None if there is no such thing."""

    def write(self, folder: Path, arrays: Arrays, tokenizer: Tokenizer) -> None:
        """Writes the trained model as others read it, if there is such a form; by `tokenizer` it was given its text."""


@dataclass(frozen=True)
class Own:
    """The documents' Transformer, as the configuration describes it."""

    config: TrainConfig

    def graph(self, dropout: float, padded: bool) -> Graph:
        return transformer(**self.config.model_options(dropout=dropout), decode=None, padded=padded)

    def trained(self, graph: Graph) -> list[str] | None:
        return None

    def tokens(self, vocabulary: int) -> int:
        return vocabulary

    def sizes(self, tokens: int) -> dict[str, int]:
        return self.config.sizes(tokens)

    def weights(self) -> Arrays:
        return {}

    def speaking(self, **choice: Any) -> Graph:
        return transformer(**self.config.model_options(dropout=0.0), **choice)

    @property
    def base(self) -> str | None:
        return None

    def write(self, folder: Path, arrays: Arrays, tokenizer: Tokenizer) -> None:
        """Nothing: a checkpoint is its form."""


@dataclass(frozen=True)
class Named:
    """A model by name, from random weights, in its own size or another."""

    config: TrainConfig

    @cached_property
    def blueprint(self) -> Blueprint:
        """The model, with its own V."""
        return self.config.blueprint()

    def graph(self, dropout: float, padded: bool) -> Graph:
        return _with_dropout(self.blueprint, dropout).graph(decode=None, padded=padded)

    def trained(self, graph: Graph) -> list[str] | None:
        return None

    def tokens(self, vocabulary: int) -> int:
        return vocabulary

    def sizes(self, tokens: int) -> dict[str, int]:
        return _sizes(self.blueprint, self.config, tokens)

    def weights(self) -> Arrays:
        return {}

    def speaking(self, **choice: Any) -> Graph:
        return self.blueprint.graph(**choice)

    @property
    def base(self) -> str | None:
        return None

    def write(self, folder: Path, arrays: Arrays, tokenizer: Tokenizer) -> None:
        assert isinstance(tokenizer, ByteTokenizer | JsonTokenizer)
        speech = Speech(lambda: tokenizer)
        blueprint = self.blueprint.but(V=len(arrays[_EMBEDDING]))
        known = {value.name: arrays[value.name] for value in blueprint.graph().parameters}
        write_folder(folder, of_arrays(blueprint, known, speech), over=True)


@dataclass(frozen=True)
class Foreign:
    """A model from a folder or a file: its weights are trained further, or, by LoRA, what is added to them."""

    config: TrainConfig
    model: Pretrained

    def graph(self, dropout: float, padded: bool) -> Graph:
        blueprint = self.model.blueprint.but(dtype=self.config.dtype)
        graph = _with_dropout(blueprint, dropout).graph(decode=None, padded=padded)
        if self.config.lora is None:
            return graph
        names = self._adapted(graph)
        graph = lora(graph, lambda W: W.local_name in names, self.config.lora_scale)
        return as_stored(graph, self.model.lies()) if self.config.weights == STORED else graph

    def _adapted(self, graph: Graph) -> frozenset[str]:
        """The names, in their blocks, of the matrices that LoRA adds to: all of the layers', or those of --lora-on."""
        read = {node.inputs[1] for node in graph.nodes if reads_matrix(node)} & {*graph.parameters}
        known = sorted({W.local_name for W in read if W.name.startswith("layer")})
        said = self.config.lora_on
        names = known if said is None else [name.strip() for name in said.split(",")]
        for name in names:
            if name not in known:
                hint = meant(name, known, f"it has {', '.join(known)}", most=1, cutoff=0.6)
                raise ConfigError(f"--lora-on {said}: no matrix of {self.config.model} is called {name!r}; {hint}")
        return frozenset(names)

    def trained(self, graph: Graph) -> list[str] | None:
        return None if self.config.lora is None else [name for pair in adapters(graph).values() for name in pair]

    def tokens(self, vocabulary: int) -> int:
        V = self.model.blueprint.sizes["V"]
        if vocabulary > V:
            raise ConfigError(
                f"--tokenizer {self.config.tokenizer} has ids up to {vocabulary - 1}, {self.config.model} V = {V} "
                "tokens; they do not belong together"
            )
        return V

    def sizes(self, tokens: int) -> dict[str, int]:
        known = _sizes(self.model.blueprint, self.config, tokens)
        return known if self.config.lora is None else {**known, str(R): self.config.lora}

    def weights(self) -> Arrays:
        own = [each for each in self.graph(0.0, padded=False).parameters if each.name in self.model.weights]
        # A step writes over what it trains, which it must not over a file.
        make = partial(np.array, order="C") if self.config.lora is None else np.ascontiguousarray
        return {each.name: make(self.model.weights[each.name], each.dtype) for each in own}

    def speaking(self, **choice: Any) -> Graph:
        return self.model.blueprint.graph(**choice)

    @property
    def base(self) -> str | None:
        return None if self.config.lora is None else self.model.fingerprint

    def write(self, folder: Path, arrays: Arrays, tokenizer: Tokenizer) -> None:
        by, weights = self.config.lora_scale, self.model.weights
        pairs = [name.removesuffix(".A") for name in arrays if name.endswith(".A")]
        merged = {name: array for name, array in arrays.items() if name in weights and of_stored(name) is None}
        for name in pairs:
            W = merged[name] if name in merged else np.asarray(weights[name], self.config.dtype)
            merged[name] = W + by * (arrays[f"{name}.A"] @ arrays[f"{name}.B"])
        write_folder(folder, self.model, merged, over=True)


def subject_of(config: TrainConfig) -> Subject:
    """What the configuration trains; ModelFileError for a model that cannot be read."""
    if config.model is None:
        return Own(config)
    return Foreign(config, opened(config.model)) if config.has_weights else Named(config)


def _with_dropout(blueprint: Blueprint, dropout: float) -> Blueprint:
    """The model with this dropout; without any DO where that is 0."""
    return replace(blueprint, composition=replace(blueprint.composition, dropout=dropout or None))


def _sizes(blueprint: Blueprint, config: TrainConfig, tokens: int) -> dict[str, int]:
    """The numbers of a model's dims, those of a batch and of V; ConfigError for what it cannot be trained on."""
    longest = blueprint.sizes["S_max"]
    if config.sequence > longest:
        raise ConfigError(f"--sequence {config.sequence}: {config.model} was made for S_max={longest} positions")
    if not blueprint.composition.attention.causal:
        raise ConfigError(f"{config.model} is an encoder, which sees what it would be trained to predict")
    # One layer has all dims, and a file that speaks of very many is not believed yet.
    shallow = blueprint.but(layers=1).graph(decode=None)
    return blueprint.bind(shallow, B=config.batch, S=config.sequence) | {"V": tokens}


@lru_cache(maxsize=2)
def opened(where: str) -> Pretrained:
    """A model, opened once for all that is asked of it."""
    return open_model(where)
