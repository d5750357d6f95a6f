"""How tokens are chosen, as options: what needs no array."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.options import checked, option


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How tokens are chosen. Errors: ConfigError, with the option's name, for what it cannot be.

    The bounds are drawn one after another, in the order in which they stand here; what is left is drawn from.
    """

    repetition: float = option(
        1.0,
        "What logits of tokens that have occurred are divided by, or multiplied, if negative (Keskar et al., 2019); "
        "1: nothing.",
        positive=True,
        group="Choice",
    )
    temperature: float = option(
        0.8, "What logits are divided by; 0: always the most probable token.", least=0, group="Choice"
    )
    top_k: int = option(40, "How many of the most probable tokens may be drawn; 0: all.", least=0, group="Choice")
    top_p: float = option(
        1.0,
        "The most probable tokens may be drawn that have this probability together (Holtzman et al., 2020).",
        positive=True,
        most=1,
        group="Choice",
    )
    min_p: float = option(
        0.0,
        "The least probability of a token that may be drawn, as a share of the most probable one's.",
        least=0,
        most=1,
        group="Choice",
    )
    seed: int = option(0, "The same seed draws the same text.", least=0, group="Choice")

    def __post_init__(self) -> None:
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)
