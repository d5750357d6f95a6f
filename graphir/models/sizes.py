"""How large a Transformer is, and how much it is given at once: the numbers of its dims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphir.errors import ConfigError
from graphir.options import Option, option

#: The dim that each option is the size of.
DIMS = {"batch": "B", "sequence": "S", "width": "D", "heads": "N_H", "feed_forward": "D_ff", "vocabulary": "V"}

#: V, for whoever has no tokenizer that says it.
VOCABULARY = Option(default=256, help="V, tokens in the vocabulary.", kind=int, least=1)

#: How the weights of a model that comes with some are held.
WIDE, STORED = HELD = ("wide", "stored")
WEIGHTS = Option(
    default=WIDE,
    help="How a model's weights are held: wide, in the floats that it computes in, or as they are stored: of 16 bits, "
    "they take half the room, and are widened part by part as they are multiplied.",
    kind=str,
    choices=HELD,
    group="Model",
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a Transformer and its batch, but for V, which a tokenizer says."""

    batch: int = option(16, "B, sequences a step.", least=1)
    sequence: int = option(64, "S, tokens a sequence.", least=1)
    width: int = option(128, "D, the width of the model.", least=1)
    heads: int = option(4, "N_H, attention heads; they divide D.", least=1)
    feed_forward: int | None = option(None, "D_ff, the width inside an MLP.  [default: 4 D]", kind=int, least=1)

    def sizes(self, vocabulary: int) -> dict[str, int]:
        """The numbers of the dims B, S, D, N_H, D_ff, V."""
        given = {dim: getattr(self, name) for name, dim in DIMS.items() if name != "vocabulary"}
        return {**given, "D_ff": self.feed_forward or 4 * self.width, "V": vocabulary}


def named_sizes(written: Iterable[str]) -> dict[str, int]:
    """`{"B": 4}` of `B=4`, as --size has it; ConfigError for what is no dim and its size."""
    return dict(map(_named_size, written))


def _named_size(written: str) -> tuple[str, int]:
    name, _, number = written.partition("=")
    if not number.isdecimal() or not 0 < int(number) < 2**53:
        raise ConfigError(f"--size {written} is no dim and its size; write it like B=8")
    return name, int(number)
