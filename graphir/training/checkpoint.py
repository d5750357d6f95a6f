"""Checkpoints: one safetensors file with parameters, optimizer state and, as JSON in its metadata, the run.

The metadata's key `graphir` holds format, version, step, configuration, sizes, fingerprint of the data, the
tokenizer's fingerprint, and a checksum of all tensors. Nothing in a file is ever unpickled or evaluated.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends import ExecutionPlan
from graphir.errors import CheckpointError
from graphir.training.config import TrainConfig
from graphir.training.files import write_atomically

Arrays = dict[str, NDArray[Any]]

FORMAT = 1
_NAME = re.compile(r"step-(\d+)\.safetensors\Z")


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps."""

    path: Path
    config: TrainConfig
    sizes: Mapping[str, int]
    step: int
    data: str
    tokenizer: str
    arrays: Arrays


def checkpoint_path(folder: Path, step: int) -> Path:
    """`run/step-000200.safetensors`."""
    return folder / f"step-{step:06d}.safetensors"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder as (step, path), oldest first."""
    found = ((_NAME.match(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]), path) for match, path in found if match)


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Writes the checkpoint to its path, atomically; ConfigError, naming path and reason, if that fails."""
    from safetensors.numpy import save

    import graphir

    about = {
        "format": FORMAT,
        "version": graphir.__version__,
        "step": checkpoint.step,
        "config": checkpoint.config.as_dict(),
        "sizes": dict(checkpoint.sizes),
        "data": checkpoint.data,
        "tokenizer": checkpoint.tokenizer,
        "checksum": _checksum(checkpoint.arrays),
    }
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    content = save(arrays, metadata={"graphir": json.dumps(about)})
    write_atomically(checkpoint.path, lambda file: file.write(content))


def remove_old(folder: Path, keep: int) -> None:
    """Removes all but the latest `keep` checkpoints; none if `keep` is 0."""
    for _, path in list_checkpoints(folder)[: -keep or None] if keep else []:
        path.unlink(missing_ok=True)


def find_checkpoint(where: Path) -> Path:
    """`where` itself if it is a file, else the latest checkpoint in that folder; CheckpointError if there is none."""
    if where.is_file():
        return where
    if not where.is_dir():
        raise CheckpointError(f"{where} does not exist; give a checkpoint or the --out folder of a run")
    found = list_checkpoints(where)
    if not found:
        raise CheckpointError(f"the folder {where} holds no checkpoint (step-….safetensors)")
    return found[-1][1]


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in that file; CheckpointError if it is unreadable, truncated, corrupt or foreign."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb"):
            pass  # the package's own message for a file that cannot be opened does not say why
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file, truncated or corrupt: {error}") from None
    if "graphir" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of graphir: its metadata says nothing")
    try:
        about = json.loads(metadata["graphir"])
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {about['format']}; this version of graphir reads {FORMAT}")
        config = TrainConfig.from_dict(about["config"], str(path))
        sizes = {str(name): int(size) for name, size in about["sizes"].items()}
        step, data, tokenizer = int(about["step"]), str(about["data"]), str(about["tokenizer"])
        checksum = int(about["checksum"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is corrupt: its metadata cannot be read ({error!r})") from None
    if _checksum(arrays) != checksum:
        raise CheckpointError(f"{path} is corrupt: its tensors do not have the checksum they were written with")
    return Checkpoint(path, config, sizes, step, data, tokenizer, arrays)


def select_arrays(checkpoint: Checkpoint, plan: ExecutionPlan) -> Arrays:
    """The checkpoint's arrays for the plan's parameters and state; CheckpointError, with named dims, on a misfit."""
    selected: Arrays = {}
    for value in (*plan.graph.parameters, *plan.graph.state):
        array = checkpoint.arrays.get(value.name)
        if array is None:
            raise CheckpointError(f"{checkpoint.path} lacks {value.name} {value.type}")
        shape = tuple(dim.size(plan.sizes) for dim in value.shape)
        if array.shape != shape or array.dtype != value.dtype:
            raise CheckpointError(
                f"{checkpoint.path}: {value.name} is {array.dtype}{list(array.shape)}, not {value.type} = {list(shape)}"
            )
        selected[value.name] = array
    return selected


def tokenizer_fingerprint(name: str) -> str:
    """`bytes`, or a hash of the tokenizer's file."""
    return name if name == "bytes" else hashlib.sha256(Path(name).read_bytes()).hexdigest()


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    """CRC-32 over names, types, shapes and contents, in the order of names."""
    crc = 0
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.tobytes(), crc)
    return crc
