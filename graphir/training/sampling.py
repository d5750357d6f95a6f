"""Text from a checkpoint: the model's own decoding branch (ARG or TOP-k), a token a run.

The model is causal, so what stands behind a place does not change it: a text shorter than the window is filled up
with anything, and a longer one is seen through a window of its last S tokens. Windows come in powers of two up to S,
so that a short text costs a short run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphir.backends import Executable, plan
from graphir.compiler import compile
from graphir.errors import CheckpointError, ConfigError, DataError
from graphir.tokenizer import Tokenizer
from graphir.training.checkpoint import Arrays, Checkpoint, select_arrays
from graphir.training.config import TRAINED
from graphir.training.subject import subject_of
from graphir.training.tokens import tokenizer_fingerprint, tokenizer_of

_SHORTEST_WINDOW = 16
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Sampler:
    """Draws tokens from a checkpoint's model, the same ones for the same seed.

    Temperature 0 always takes the most probable token, and `top_k` the k most probable into account. `backend` is that
    of `gi.compile`.
    Errors: ConfigError for a temperature, k or seed out of range, CheckpointError if the checkpoint's tensors are
    not its model's, or its tokenizer is not to be found.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        seed: int = 0,
        backend: str = "numpy",
    ) -> None:
        config = checkpoint.config
        if config.has_weights:
            raise CheckpointError(
                f"{checkpoint.path} is of a run that trained {config.model} further: graphir generate --model "
                f"{checkpoint.path.parent / TRAINED} goes on with that"
            )
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ConfigError(
                f"--temperature must be a finite number of at least 0, not {temperature}; "
                "0 always takes the most probable token"
            )
        if top_k < 1:
            raise ConfigError(f"--top-k must be at least 1, not {top_k}; 1 always takes the most probable token")
        if not 0 <= seed < 2**63:
            raise ConfigError(f"--seed must be from 0 to 2^63 - 1, not {seed}")
        choice: dict[str, Any] = {"decode": "top-k", "k": top_k, "temperature": temperature}
        self.graph = subject_of(config).speaking(**choice)
        self.tokenizer: Tokenizer = tokenizer_of(find_tokenizer(checkpoint))
        self.sizes = {**checkpoint.sizes, "B": 1}
        # Tensors that are not this model's are found before anything is compiled for them.
        self.arrays: Arrays = select_arrays(checkpoint, plan(self.graph, self.sizes))
        self.window = self.sizes["S"]
        self.seed = seed
        #: Parameters with a row for each place of a run, which a shorter one has fewer of.
        self._rows = [each.name for each in self.graph.parameters if "S" in map(str, each.shape[:1])]
        self.backend = backend
        self._executables: dict[int, Executable] = {}

    def _executable(self, window: int) -> Executable:
        if window not in self._executables:
            sizes = {**self.sizes, "S": window}
            self._executables[window] = compile(self.graph, sizes, fetch=["output/ids"], backend=self.backend)
        return self._executables[window]

    def next_token(self, ids: Sequence[int], step: int) -> int:
        """The id that follows `ids`, which are not empty; the draw is keyed by (seed, step)."""
        seen = np.asarray(ids[-self.window :], np.int64)
        window = _SHORTEST_WINDOW
        while window < len(seen):
            window *= 2
        window = min(window, self.window)
        T = np.zeros((1, window), np.int64)
        T[0, : len(seen)] = seen
        arrays = self.arrays | {name: self.arrays[name][:window] for name in self._rows}
        places = np.broadcast_to(np.arange(window), T.shape)
        known = {"T": T, "Y": np.zeros_like(T), "seed": self.seed, "step": step, "positions": places, "length": window}
        inputs = {value.name: known[value.name] for value in self.graph.inputs}
        return int(self._executable(window)(arrays, inputs)["output/ids"][0, len(seen) - 1])

    def encode(self, prompt: str) -> list[int]:
        """The prompt's ids; DataError if the tokenizer makes none of it."""
        ids = self.tokenizer.encode(prompt)
        if not ids:
            raise DataError(f"the prompt {prompt!r} has no token that the model knows; give another --prompt")
        return ids

    def unknown(self, prompt: str) -> int:
        """How many of the prompt's tokens the tokenizer knows no id for but that of the unknown."""
        unknown = self.tokenizer.unknown
        return 0 if unknown is None else self.tokenizer.encode(prompt).count(unknown)

    def stream(self, prompt: str, tokens: int) -> Iterator[str]:
        """The text that follows the prompt, piece by piece: a piece ends where its characters are complete."""
        if tokens < 0:
            raise ConfigError(f"--max-tokens must be at least 0, not {tokens}")
        ids = self.encode(prompt)
        # Decoding starts a piece early: some tokenizers write a token after another otherwise than alone.
        before, shown = len(ids) - 1, len(ids)
        for step in range(tokens):
            ids.append(self.next_token(ids, step))
            known = self.tokenizer.decode(ids[before:shown])
            text = self.tokenizer.decode(ids[before:])
            if len(text) > len(known) and (not text.endswith(_REPLACEMENT) or step == tokens - 1):
                yield text[len(known) :]
                before, shown = shown, len(ids)


def find_tokenizer(checkpoint: Checkpoint) -> str:
    """The tokenizer that the checkpoint was trained with: the copy beside it, else the file that was named then."""
    named = checkpoint.config.tokenizer
    if named == "bytes":
        return named
    candidates = [checkpoint.path.parent / "tokenizer.json", Path(named)]
    for path in candidates:
        if path.is_file() and tokenizer_fingerprint(str(path)) == checkpoint.tokenizer:
            return str(path)
    listed = " nor ".join(map(str, candidates))
    raise CheckpointError(f"{checkpoint.path} needs the tokenizer it was trained with; neither {listed} is it")
