"""Checkpoints: one safetensors file with parameters, optimizer state and, as JSON in its metadata, the run.

The metadata's key `graphir` holds format, version, step, configuration, sizes, fingerprint of the data, the
tokenizer's fingerprint, and a checksum of all that and of all tensors. Nothing in a file is ever unpickled or
evaluated, and no tensor is read before what is said of all of them has been checked (`schema`).
"""

from __future__ import annotations

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
from graphir.backends.dtypes import require_bfloat16
from graphir.errors import CheckpointError
from graphir.files import write_atomically
from graphir.memory import free_memory, spelled
from graphir.reading import read_json
from graphir.training.schema import About, read_about, require_tensors

Arrays = dict[str, NDArray[Any]]

_NAME = re.compile(r"step-(\d{1,16})\.safetensors\Z")


@dataclass(frozen=True)
class Checkpoint(About):
    """A run after `step` steps: what the file at `path` says of it, and its tensors."""

    path: Path
    arrays: Arrays


def checkpoint_path(folder: Path, step: int) -> Path:
    """`run/step-000200.safetensors`."""
    return folder / f"step-{step:06d}.safetensors"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder as (step, path), oldest first."""
    found = ((_NAME.match(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]), path) for match, path in found if match and path.is_file())


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Writes the checkpoint to its path, atomically; ConfigError, naming path and reason, if that fails."""
    from safetensors.numpy import save

    about = checkpoint.as_dict()
    about["checksum"] = checksum(checkpoint.arrays, about)
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
        model = "; it is that of a model: give it by --model" if (where / "config.json").is_file() else ""
        raise CheckpointError(f"the folder {where} holds no checkpoint (step-….safetensors){model}")
    return found[-1][1]


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in that file, checked.

    CheckpointError if it is unreadable, truncated, corrupt, foreign, of a format that is not read, or too large.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            path.stat()
            raise CheckpointError(f"{path} is no file; give a checkpoint or the --out folder of a run")
        with path.open("rb"):
            pass  # the package's own message for a file that cannot be opened does not say why
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            slices = {name: file.get_slice(name) for name in names}
            header = {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
            said = _metadata(file.metadata() or {}, path)
            about = read_about(said, str(path))
            total, free = require_tensors(header, about, str(path)), free_memory()
            if free is not None and total > free:
                raise CheckpointError(f"{path} holds {spelled(total)} of tensors; {spelled(free)} of memory are free")
            narrow = next((name for name, (dtype, _) in header.items() if dtype == "BF16"), None)
            if narrow is not None:
                require_bfloat16(f"{narrow} in {path} is bfloat16")
            arrays: Arrays = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file, truncated or corrupt: {error}") from None
    covered = {name: each for name, each in said.items() if name != "checksum"} if said["format"] > 1 else None
    if checksum(arrays, covered) != said.get("checksum"):
        raise CheckpointError(f"{path} is corrupt: it does not have the checksum that it was written with")
    return Checkpoint(**vars(about), path=path, arrays=arrays)


def _metadata(metadata: Mapping[str, str], path: Path) -> Any:
    """What the file says of itself; CheckpointError if that is nothing, or cannot be read."""
    if "graphir" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of graphir: its metadata says nothing")
    try:
        return read_json(metadata["graphir"])
    except ValueError as error:
        raise CheckpointError(f"{path} is corrupt: its metadata cannot be read ({error})") from None


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


def checksum(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any] | None) -> int:
    """CRC-32 over what is said, if that is covered, and names, types, shapes and contents, in the order of names."""
    crc = 0 if about is None else zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc
