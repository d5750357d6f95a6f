"""What a copy of the guide is made for: a model, its sizes, a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphir.ir.graph import Graph
from graphir.models import Blueprint, transformer
from graphir.models.sizes import DIMS, VOCABULARY, Sizes
from graphir.models.transformer import Architecture
from graphir.options import checked, flag, option, varied


@dataclass(frozen=True, kw_only=True)
class GuideConfig(Sizes):
    """The model of the reader's choice, and how many ranks share it.

    Errors: `check` raises ConfigError, naming the option, for what is no positive number.
    """

    layers: int = varied(Architecture, "layers", default=12)
    heads: int = varied(Sizes, "heads", default=12, help="N_H, attention heads; a multiple of --tp.")
    width: int = varied(Sizes, "width", default=768)
    sequence: int = varied(Sizes, "sequence", default=1024)
    batch: int = varied(Sizes, "batch", default=8)
    vocabulary: int = option(50257, VOCABULARY.help, least=1)
    dp: int = option(2, "N_DP, ranks that share the batch.", least=1)
    tp: int = option(3, "N_T, ranks that share heads and D_ff.", least=1)
    #: Another model in the place of the documents' Transformer, and what it is called.
    model: Blueprint | None = None
    name: str = "transformer"

    @classmethod
    def of_model(cls, name: str, model: Blueprint, **told: int) -> GuideConfig:
        """A guide to another model, with its sizes; `told` are batch, sequence, dp and tp, where somebody says them."""
        sizes = model.sizes
        ranks = next((count for count in (cls.tp, 2) if sizes["N_KV"] % count == 0), 1)
        rest = {"sequence": min(cls.sequence, sizes["S_max"]), "tp": ranks, **told}
        own = {field: sizes[dim] for field, dim in DIMS.items() if dim in sizes}
        return cls(layers=model.composition.layers, model=model, name=name, **{**own, **rest})

    def graph(self, layers: int, **usage: Any) -> Graph:
        """The model with so many layers, as `Usage` has it."""
        if self.model is None:
            return transformer(layers, **usage)
        return self.model.but(layers=layers, dtype=usage.pop("dtype", None)).graph(**usage)

    def check(self) -> GuideConfig:
        """The configuration as it is kept, if every number in it is positive and whole."""
        return replace(self, **checked(self, flag))

    @property
    def numbers(self) -> Mapping[str, int]:
        """The sizes of B, S, D, N_H, D_ff, V; of another model, those of its other dims, too."""
        told = self.sizes(self.vocabulary)
        if self.model is None:
            return told
        return self.model.bind(self.graph(1), B=self.batch, S=self.sequence)

    @property
    def words(self) -> Mapping[str, str]:
        """The numbers that the text mentions, by name."""
        local = f"{self.heads // self.tp} of them" if self.heads % self.tp == 0 else "which is no whole number here"
        return {
            "layers": number(self.layers),
            "heads": str(self.heads),
            "heads_local": local,
            "N_T": str(self.tp),
            "N_DP": str(self.dp),
            "ranks": str(self.dp * self.tp),
        }


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def number(count: int) -> str:
    """A small number as a word."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)
