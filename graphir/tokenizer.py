"""Tokenizers: bytes, or a Hugging Face `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from graphir.errors import DataError, MissingDependencyError
from graphir.extras import install
from graphir.reading import read_json

#: Bytes of the largest file that is read; those that people use have some ten million.
_LARGEST = 1 << 28


class Tokenizer(Protocol):
    """What turns text into ids in {0, …, V − 1} and back."""

    @property
    def vocabulary(self) -> int:
        """V."""

    @property
    def unknown(self) -> int | None:
        """The id of what the vocabulary lacks; None if it lacks nothing or has no such id."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, what is no text shown as such."""


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token: V = 256, nothing to download, nothing unknown."""

    vocabulary = 256
    unknown = None

    @property
    def said(self) -> Mapping[str, Any]:
        """A tokenizer.json that says the same, for others: BPE without merges, over letters that stand for bytes."""
        added = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        letters = {_letter(byte): byte for byte in range(self.vocabulary)}
        model: dict[str, Any] = {
            "type": "BPE",
            "unk_token": None,
            "byte_fallback": False,
            "vocab": letters,
            "merges": [],
        }
        return {"version": "1.0", "added_tokens": [], "pre_tokenizer": added, "decoder": added, "model": model}

    def encode(self, text: str, *, framed: bool = False) -> list[int]:
        try:
            # A command line's bytes that are not UTF-8 reach Python as surrogates, and become bytes again.
            return list(text.encode("utf-8", errors="surrogateescape"))
        except UnicodeEncodeError as error:
            raise DataError(f"the text cannot be written as bytes: {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def _letter(byte: int) -> str:
    """The letter that a byte is written as in a tokenizer.json: its own, where it has one, else one from 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    if byte in shown:
        return chr(byte)
    return chr(256 + sum(each not in shown for each in range(byte)))


class JsonTokenizer:
    """A tokenizer of the `tokenizers` package, as a Hugging Face tokenizer.json says it.

    Where it says that texts are cut off or filled up to a length, that is left out: every token of a text counts, and
    nothing else. A length from elsewhere would also be memory from elsewhere.
    """

    def __init__(self, said: Mapping[str, Any], what: str) -> None:
        """`said` is the file's object, and `what` it is called where it is wrong."""
        try:
            import tokenizers
        except ImportError:
            raise MissingDependencyError(f"{what} needs the tokenizers package: {install('tokenizers')}") from None
        #: What a tokenizer.json says that is this one.
        self.said: Mapping[str, Any] = {**said, "truncation": None, "padding": None}
        with _named(f"{what} cannot be read as a tokenizer.json"):
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self.said))

    @property
    def vocabulary(self) -> int:
        # Ids may have gaps, so their number is not enough.
        return int(max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)) + 1

    @property
    def unknown(self) -> int | None:
        token = getattr(self._tokenizer.model, "unk_token", None)
        return None if token is None else self.id(token)

    def id(self, token: str) -> int | None:
        """The id of a token by its text; None if there is no such token."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, *, framed: bool = False) -> list[int]:
        """The ids of `text`; `framed`: with those that the tokenizer puts around a text (⟨s⟩, [CLS], [SEP])."""
        with _named("the tokenizer cannot encode the text"):
            return list(self._tokenizer.encode(text, add_special_tokens=framed).ids)

    def decode(self, ids: Sequence[int]) -> str:
        with _named("the tokenizer cannot decode what the model says"):
            return str(self._tokenizer.decode(list(ids)))


class FileTokenizer(JsonTokenizer):
    """The tokenizer in a Hugging Face tokenizer.json; DataError if there is no such file, or it is malformed."""

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise DataError(f"tokenizer {path} is no file; give 'bytes' or the path of a tokenizer.json")
        with _named(f"tokenizer {path} cannot be read as a tokenizer.json"):
            if Path(path).stat().st_size > _LARGEST:
                raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
            said = read_json(Path(path).read_text(encoding="utf-8"))
            if not isinstance(said, dict):
                raise ValueError("it is no object")
        super().__init__(said, f"tokenizer {path}")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """DataError for whatever the package raises: bare Exception, and, where it panics, what is not even that."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DataError(f"{what}: {error}") from None
        raise


@lru_cache(maxsize=8)
def load_tokenizer(name: str) -> Tokenizer:
    """The byte tokenizer for "bytes", else the one in the file `name`.

    Errors: DataError if there is no such file or it is malformed, MissingDependencyError without `tokenizers`.
    """
    return ByteTokenizer() if name == "bytes" else FileTokenizer(name)
