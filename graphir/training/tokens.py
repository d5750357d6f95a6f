"""The tokenizer of a run, by its name: 'bytes', the path of a tokenizer.json, or of the GGUF file that has one within.

What a run keeps of it is a tokenizer.json, whichever of the two it came from: a copy beside the checkpoints. It is
known by a hash of that, so that the copy is as good as what it was made of.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from graphir.tokenizer import Tokenizer, load_tokenizer
from graphir.training.config import BYTES
from graphir.training.subject import opened


def tokenizer_of(name: str) -> Tokenizer:
    """The tokenizer; DataError or ModelFileError for a file that has none, or a malformed one."""
    return opened(name).tokenizer if _is_within(name) else load_tokenizer(name)


def tokenizer_file(name: str) -> bytes | None:
    """The tokenizer.json that says it; None of bytes."""
    if name == BYTES:
        return None
    return json.dumps(opened(name).tokenizer.said).encode() if _is_within(name) else Path(name).read_bytes()


def tokenizer_fingerprint(name: str) -> str:
    """`bytes`, or a hash of the tokenizer's file."""
    content = tokenizer_file(name)
    return BYTES if content is None else hashlib.sha256(content).hexdigest()


def _is_within(name: str) -> bool:
    return Path(name).suffix == ".gguf"
