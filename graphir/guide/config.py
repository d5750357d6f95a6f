"""What a copy of the guide is made for: a model, its sizes, a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from graphir.models.sizes import VOCABULARY, Sizes
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

    def check(self) -> GuideConfig:
        """The configuration as it is kept, if every number in it is positive and whole."""
        return replace(self, **checked(self, flag))

    @property
    def numbers(self) -> Mapping[str, int]:
        """The sizes of B, S, D, N_H, D_ff, V."""
        return self.sizes(self.vocabulary)

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
