"""What files may say: checked before anything is made of it.

Whoever sent a checkpoint may have written into it whatever they like. So each thing that it says is of a type and
within a range, what it says twice agrees, and how large its tensors are is known before the first is read.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphir.errors import CheckpointError
from graphir.passes.lora import R
from graphir.reading import read_json
from graphir.training.config import TrainConfig
from graphir.training.subject import subject_of
from graphir.version import __version__

#: The present layout of a checkpoint's metadata, and the oldest that is read. Of 1, the checksum left the metadata out;
#: up to 2, LoRA's checkpoints held the weights beside A and B, too.
FORMAT, OLDEST = 3, 1
_WITH_BASE = 2

#: What is told of a step, by name.
Record: TypeAlias = dict[str, float]
#: A tensor as the file's header has it: its type, in the words of safetensors, and its shape.
Header: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]

#: Bytes an element of each type that parameters and state have.
_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8, "BOOL": 1}
_KEYS = ("format", "version", "step", "config", "sizes", "data", "tokenizer", "base", "checksum")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
#: No size is larger, nor any number of elements: NumPy counts in 64 bits.
_BELOW = 2**63
_LARGEST = sys.float_info.max


# -- metrics ----------------------------------------------------------------------------------------------


def read_record(line: bytes, after: float) -> Record | None:
    """What a line of the metrics says of a step, which comes after step `after`; None if it is no such record."""
    try:
        said = read_json(line.decode())
    except ValueError:
        return None
    if not isinstance(said, dict) or not _is_whole(said.get("step"), 1, 2**53) or said["step"] <= after:
        return None
    return said if "loss" in said and all(_is_finite(number) for number in said.values()) else None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


# -- checkpoints ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself, as JSON in the metadata of its file."""

    step: int
    config: TrainConfig
    sizes: Mapping[str, int]
    data: str
    tokenizer: str
    #: A hash of the weights beside which A and B are trained, where the checkpoint does not hold them.
    base: str | None = field(default=None, kw_only=True)
    #: The graphir that wrote it.
    version: str = field(default=__version__, kw_only=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; what the checksum covers beside the tensors."""
        return {
            "format": FORMAT,
            "version": self.version,
            "step": self.step,
            "config": self.config.as_dict(),
            "sizes": dict(self.sizes),
            "data": self.data,
            "tokenizer": self.tokenizer,
            **({} if self.base is None else {"base": self.base}),
        }


def read_about(said: Any, where: str) -> About:
    """What metadata that `read_json` has read says; `where` is its file.

    CheckpointError where it is of a format that this graphir does not read, with what to do, or says what cannot be.
    """
    if not isinstance(said, dict):
        raise CheckpointError(f"{where} is corrupt: its metadata is no object")
    written: Any = said.get("format")
    theirs: Any = said.get("version")
    by = f"graphir {theirs}" if isinstance(theirs, str) and len(theirs) < 40 else "an unknown graphir"
    ours = f"graphir {__version__}"
    if not _is_whole(written, 0):
        raise CheckpointError(f"{where} is corrupt: its format is no number")
    if written > FORMAT:
        raise CheckpointError(
            f"{where} has format {written}, by {by}; {ours} reads up to {FORMAT}: use the one that wrote it"
        )
    if written < OLDEST:
        raise CheckpointError(
            f"{where} has format {written}, by {by}; {ours} reads {OLDEST} to {FORMAT}: "
            "go on with it in the graphir that wrote it, or train anew"
        )
    config = TrainConfig.from_dict(said.get("config"), f"{where}, by {by},")

    def require(fine: object, otherwise: str) -> None:
        if not fine:
            raise CheckpointError(f"{where} is corrupt: {otherwise}")

    require(said.keys() <= {*_KEYS}, f"its metadata is not about {', '.join(_KEYS)} alone")
    values: tuple[Any, ...] = tuple(said.get(name) for name in ("step", "sizes", "data", "tokenizer", "base"))
    step, sizes, data, tokenizer, base = values
    require(isinstance(theirs, str) and len(theirs) < 40, "its version is no short text")
    require(_is_whole(step, 1, config.steps + 1), f"its step is none of the {config.steps} of its configuration")
    require(_is_fingerprint(data), "its data is no fingerprint")
    plain = config.tokenizer == "bytes"
    require(tokenizer == "bytes" if plain else _is_fingerprint(tokenizer), "its tokenizer is not that of its options")
    beside = config.lora is not None and written > _WITH_BASE
    require(_is_fingerprint(base) if beside else base is None, "its base is not that of its options")
    require(isinstance(sizes, dict) and _is_whole(sizes.get("V"), 1), "its vocabulary V is no whole number from 1")
    resulting = subject_of(config).sizes(sizes["V"])
    require(sizes == resulting, "its sizes are not those of its configuration")
    return About(step, config, resulting, data, tokenizer, base=base, version=theirs)


def require_tensors(header: Header, about: About, where: str) -> int:
    """The bytes of all tensors; CheckpointError for those that no model of these sizes can have.

    That every tensor is there, and of the shape that the model's graph has it in, is known once there is that graph.
    Here it is made sure that there will be: a model has no more layers than tensors, no width that none of them has.
    """
    total = 0
    for name, (dtype, shape) in header.items():
        if dtype not in _BYTES:
            raise CheckpointError(f"{where}: {name} is of type {dtype}; checkpoints hold {', '.join(_BYTES)}")
        elements = math.prod(shape)
        if not all(0 < size < _BELOW for size in shape) or elements >= _BELOW:
            raise CheckpointError(f"{where}: {name} cannot be of shape {list(shape)}")
        total += elements * _BYTES[dtype]
    if (about.config.layers or 0) > len(header):
        raise CheckpointError(f"{where} speaks of {about.config.layers} layers, but holds {len(header)} tensors")
    there = {size for _, shape in header.values() for size in shape}
    for name in ("V", "D", "D_ff") if about.base is None else (str(R),):
        size = about.sizes[name]
        if size not in there:
            raise CheckpointError(f"{where} says {name}={size}, but none of its tensors has a dim of that size")
    return total


def _is_fingerprint(value: object) -> bool:
    return isinstance(value, str) and _SHA256.match(value) is not None


def _is_whole(value: object, least: int, below: int = _BELOW) -> bool:
    """Whether it is a whole number, `least` ≤ value < `below`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < below
