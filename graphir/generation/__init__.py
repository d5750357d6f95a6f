"""Text from models that others have trained, token by token, with a cache.

for token in generate("SmolLM2-135M-Instruct", "What is a tensor?", chat=True):
    print(token, end="", flush=True)

stream     prompts in, tokens out
decoder    two executables over one state: prompts at once, then token by token
choice     which token follows, by its logits
text       from tokens to whole characters, up to a stop
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphir.generation.options import Choice
from graphir.late import late

if TYPE_CHECKING:
    from graphir.generation.decoder import Decoder
    from graphir.generation.stream import Generation, Token, generate

__getattr__ = late(__name__, {"Decoder": "decoder", "Generation": "stream", "Token": "stream", "generate": "stream"})

__all__ = ["Choice", "Decoder", "Generation", "Token", "generate"]
