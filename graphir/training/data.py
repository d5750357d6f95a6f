"""Text to tokens, tokens to batches.

A batch is a pure function of (seed, step): B windows of S + 1 consecutive tokens at places that a counter-based
generator draws. T is a window without its last token, Y without its first. So a run that stops and goes on sees
what it would have seen without the stop.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphir.errors import DataError
from graphir.operators.loss import IGNORE
from graphir.training.config import TrainConfig
from graphir.training.tokens import tokenizer_of

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Token ids to train on and to validate on, both 1-d, in {0, …, V − 1}."""

    train: Ids
    validation: Ids
    vocabulary: int
    #: A hash of all ids and of where they are split: equal texts, tokenizers and shares have equal fingerprints.
    fingerprint: str
    source: str


def read_text(paths: tuple[str, ...]) -> str:
    """The files' text one after the other, or Python's own reference prose if there are none.

    Errors: DataError for a file that cannot be read, is empty or is not UTF-8.
    """
    if not paths:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise DataError("this Python comes without pydoc_data.topics, the default text; give --text FILE") from None
        return "\n\n".join(topics[name] for name in sorted(topics))
    return "\n\n".join(map(_read_file, paths))


def _read_file(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise DataError(f"the text {path} is a device, which may have no end; give a file")
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the text {path}: {error.strerror or error}") from None
    except ValueError:  # a checkpoint may name one with a character that no path has
        raise DataError(f"cannot read the text {path!r}: no file can be called so") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the text {path} is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from None
    if not text.strip():
        raise DataError(f"the text {path} is empty")
    return text


def load_corpus(config: TrainConfig) -> Corpus:
    """The tokens of the configuration's text, split; DataError if a part is shorter than one window, S + 1 tokens."""
    tokenizer = tokenizer_of(config.tokenizer)
    ids = np.asarray(tokenizer.encode(read_text(config.text)), np.int64)
    split = round(len(ids) * (1 - config.validation))
    window = config.sequence + 1
    for part, count in (("training", split), ("validation", len(ids) - split)):
        if count < window:
            raise DataError(
                f"the {part} part of the text has {count} of its {len(ids)} tokens, but S={config.sequence} needs "
                f"at least {window}; give more text, a smaller --sequence or another --validation"
            )
    digest = hashlib.sha256(f"{split}:".encode() + ids.astype("<i8").tobytes()).hexdigest()
    source = ", ".join(config.text) or "Python's reference prose"
    return Corpus(ids[:split], ids[split:], tokenizer.vocabulary, digest, source)


def draw_batch(ids: Ids, batch: int, sequence: int, seed: int, step: int) -> tuple[Ids, Ids]:
    """T [B, S] and Y [B, S] of this step: B windows at places drawn from (seed, step) alone."""
    # The counter's last word keeps these numbers apart from those that parameters start with.
    generator = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 1]))
    starts = generator.integers(0, len(ids) - sequence, size=batch)
    windows = ids[starts[:, None] + np.arange(sequence + 1)]
    return windows[:, :-1], windows[:, 1:]


def validation_batches(ids: Ids, batch: int, sequence: int, count: int) -> Iterator[tuple[Ids, Ids]]:
    """T [B, S] and Y [B, S] that cover `ids` window by window; `count` batches spread evenly, or all if 0.

    What does not fill the last window or batch is label −100, which counts for nothing.
    """
    windows = -(-(len(ids) - 1) // sequence)
    total = -(-windows // batch)
    tokens = np.zeros((total * batch, sequence), np.int64)
    labels = np.full((total * batch, sequence), IGNORE, np.int64)
    tokens.reshape(-1)[: len(ids) - 1] = ids[:-1]
    labels.reshape(-1)[: len(ids) - 1] = ids[1:]
    chosen = range(total) if count == 0 or count >= total else (i * total // count for i in range(count))
    for index in chosen:
        rows = slice(index * batch, (index + 1) * batch)
        yield tokens[rows], labels[rows]
