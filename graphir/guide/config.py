"""What a copy of the guide is made for: a model, its sizes, a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from graphir.errors import ConfigError


@dataclass(frozen=True)
class GuideConfig:
    """The model of the reader's choice, and how many ranks share it.

    layers L, heads N_H, width D, feed_forward D_ff (4 D unless given), sequence S, batch B, vocabulary V;
    dp is N_DP, tp is N_T.
    Errors: `check` raises ConfigError for what is no positive number.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    feed_forward: int | None = None
    sequence: int = 1024
    batch: int = 8
    vocabulary: int = 50257
    dp: int = 2
    tp: int = 3

    def check(self) -> GuideConfig:
        """The configuration itself, if every number in it is positive and whole."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"the guide's {each.name} must be a positive whole number, not {value!r}")
        return self

    @property
    def sizes(self) -> Mapping[str, int]:
        """The numbers of B, S, D, N_H, D_ff, V."""
        return {
            "B": self.batch,
            "S": self.sequence,
            "D": self.width,
            "N_H": self.heads,
            "D_ff": self.feed_forward or 4 * self.width,
            "V": self.vocabulary,
        }

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
