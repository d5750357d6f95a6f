"""What a Transformer is built for, beside what it is: its mask, what its loss is the mean of, how it decodes."""

from __future__ import annotations

from dataclasses import dataclass

from graphir.options import checked, option


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What surrounds a model in its graph. Errors: ConfigError, with the option's name, for what it cannot be."""

    mask: str = option(
        "none",
        "What else is masked: padding, by an input `keep` [B, S], or what is given, by an input `keep` [S, S].",
        choices=("none", "padding", "given"),
    )
    mean: str = option(
        "tokens",
        "What the loss is the mean over: all valid tokens, or the means of N_DP equal parts of the batch, as "
        "data-parallel replicas that average their gradients have it (A 3.5).",
        choices=("tokens", "replicas"),
    )
    # Who starts the rows beyond V at zero keeps them there.
    padded: bool = option(
        False,
        "Whether the vocabulary's tensors have V_pad ≥ V rows, so that ranks can share it evenly, or that rows of "
        "logits are as wide as tensor cores like.",
    )
    loss: bool = option(True, "Whether the graph goes on to the loss, of targets Y, or ends with the logits.")
    packed: bool = option(
        False,
        "Whether rows hold several documents, told apart by an input `segments` [B, S]; no token sees another "
        "document's.",
    )
    cached: bool = option(
        False,
        "Whether keys and values of earlier tokens lie in state, `K_cache` and `V_cache` of each layer, where inputs "
        "`start` [B] and `key_positions` [B, S_k] say.",
    )
    decode: str | None = option("argmax", "The decoding branch.", kind=str, choices=("argmax", "top-k", None))
    k: int = option(40, "Of top-k decoding: how many of the most probable tokens may be drawn.", least=1)
    temperature: float = option(
        1.0, "Of top-k decoding: what logits are divided by; 0 always draws the most probable token.", least=0
    )
    text: bool = option(False, "Whether the graph starts from `text` [B] by a Tokenizer instead of from ids.")
    tokenizer: str = option("bytes", "Which one: 'bytes', or the path of a Hugging Face tokenizer.json.")

    def __post_init__(self) -> None:
        for name, value in checked(self).items():
            object.__setattr__(self, name, value)
