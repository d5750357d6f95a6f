"""Tokenizers: bytes, or a Hugging Face `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from graphir.errors import DataError, MissingDependencyError


class Tokenizer(Protocol):
    """What turns text into ids in {0, …, V − 1} and back."""

    @property
    def vocabulary(self) -> int:
        """V."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, what is no text shown as such."""


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token: V = 256, nothing to download, nothing unknown."""

    vocabulary = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class FileTokenizer:
    """A Hugging Face tokenizer file, read by the `tokenizers` package."""

    def __init__(self, path: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise MissingDependencyError(
                f"tokenizer {path} needs the tokenizers package: pip install tokenizers"
            ) from None
        if not Path(path).is_file():
            raise DataError(f"tokenizer {path} is no file; give 'bytes' or the path of a tokenizer.json")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the package raises bare Exception for a malformed file
            raise DataError(f"tokenizer {path} cannot be read as a tokenizer.json: {error}") from None

    @property
    def vocabulary(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


@lru_cache(maxsize=8)
def load_tokenizer(name: str) -> Tokenizer:
    """The byte tokenizer for "bytes", else the one in the file `name`.

    Errors: DataError if there is no such file or it is malformed, MissingDependencyError without `tokenizers`.
    """
    return ByteTokenizer() if name == "bytes" else FileTokenizer(name)
