"""Tensors in safetensors files: mapped, so that whoever reads a part of one reads that part of the file and no more.

What a file says of its tensors (its header) is checked whole before any is looked at: by the safetensors package, which
holds that they fill the file without gaps or overlaps, and here, for what an index says of several files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.errors import MissingDependencyError, ModelFileError
from graphir.extras import install
from graphir.files import write_bytes
from graphir.reading import read_json

Array = NDArray[Any]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Bytes of tensors that are written into one file: a file is put together in memory.
LARGEST_SHARD = 2 << 30

#: What a shard may be called: nothing that leads out of its folder.
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}
_DTYPES["BOOL"] = "?"


def map_folder(folder: Path) -> dict[str, Array]:
    """The tensors of a model's folder by their names there, read-only; nothing of them is read yet.

    They lie in `model.safetensors`, or in the shards that `model.safetensors.index.json` names.
    Errors: ModelFileError for a folder without them, a shard that is missing, truncated or lies elsewhere, and tensors
    that are not where the index says.
    """
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise ModelFileError(_nothing_in(folder))
        return map_file(folder / SINGLE)
    tensors: dict[str, Array] = {}
    for shard, names in _read_index(index).items():
        if not (folder / shard).is_file():
            raise ModelFileError(f"{folder} lacks the shard {shard}, which {INDEX} names; download it again")
        found = map_file(folder / shard)
        missing, more = names - found.keys(), found.keys() - names
        if missing or more:
            what, which = ("lacks", missing) if missing else ("holds", more)
            raise ModelFileError(f"{folder / shard} {what} {min(which)}, otherwise than {INDEX} says")
        tensors.update(found)
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that `map_folder` maps."""
    index = folder / INDEX
    return [folder / shard for shard in sorted(_read_index(index))] if index.is_file() else [folder / SINGLE]


def map_file(path: Path) -> dict[str, Array]:
    """The tensors of one safetensors file by name, read-only, mapped; ModelFileError if it is no whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = read_json(file.read(length).decode("utf-8"))
        content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} is no whole safetensors file, truncated or corrupt: {error}") from None
    tensors = {}
    for name, said in header.items():
        if name != "__metadata__":
            start, stop = (8 + length + offset for offset in said["data_offsets"])
            dtype = _dtype_of(said["dtype"], f"{name} in {path}")
            tensors[name] = content[start:stop].view(dtype).reshape(said["shape"])
    return tensors


def write_shards(folder: Path, tensors: Mapping[str, Array], largest: int = LARGEST_SHARD) -> None:
    """Writes tensors into an existing folder, in as many shards of at most `largest` bytes as that takes.

    Errors: ConfigError, naming file and reason, if that fails.
    """
    from safetensors.numpy import save

    shards = list(_shards(tensors, largest))
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = SINGLE if len(shards) == 1 else f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        content = save({name: np.ascontiguousarray(tensors[name]) for name in names}, metadata={"format": "pt"})
        write_bytes(folder / file, content)
        places.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        total = sum(array.nbytes for array in tensors.values())
        index = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2, sort_keys=True)
        write_bytes(folder / INDEX, index.encode())


def _shards(tensors: Mapping[str, Array], largest: int) -> Iterator[Sequence[str]]:
    """The names of each shard, in their order."""
    names: list[str] = []
    held = 0
    for name, array in tensors.items():
        if names and held + array.nbytes > largest:
            yield names
            names, held = [], 0
        names.append(name)
        held += array.nbytes
    yield names


def _read_index(path: Path) -> dict[str, set[str]]:
    """The tensors of each shard, by the index; ModelFileError if it is none, or leads out of its folder."""
    try:
        said = read_json(path.read_text(encoding="utf-8"))
        places = said["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, shard in places.items():
            shards.setdefault(shard, set()).add(name)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelFileError(f"{path} is no index of shards: it has to map each tensor to a file") from None
    for shard in shards:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelFileError(f"{path} names the shard {shard!r}: shards are .safetensors files of the same folder")
    return shards


def _nothing_in(folder: Path) -> str:
    """Why a folder has no tensors that are read."""
    if any(folder.glob("pytorch_model*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return (
            f"{folder} holds its weights as a pickle, which could run anything, and is not read; where you trust it, "
            "convert it with transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    return f"{folder} holds no weights: neither {SINGLE} nor {INDEX}"


def _dtype_of(name: str, what: str) -> np.dtype[Any]:
    found: np.dtype[Any]
    if name == "BF16":
        try:
            import ml_dtypes
        except ImportError:
            raise MissingDependencyError(f"{what} is bfloat16, which needs ml_dtypes: {install('hub')}") from None
        found = np.dtype(ml_dtypes.bfloat16)
        return found
    if name not in _DTYPES:
        raise ModelFileError(f"{what} is of type {name}, which is not read; these are: {', '.join(_DTYPES)}, BF16")
    return np.dtype(_DTYPES[name])
