"""Folders as transformers writes them: config.json, model.safetensors or its shards, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from graphir.errors import ConfigError, ModelFileError
from graphir.files import write_bytes
from graphir.hub.chat import ChatTemplate
from graphir.hub.config import read_config, write_config
from graphir.hub.pretrained import Pretrained, Speech, parameter_names
from graphir.hub.shards import SINGLE, map_folder, weight_files, write_shards
from graphir.hub.weights import Weights
from graphir.reading import read_json
from graphir.tokenizer import FileTokenizer

Array = NDArray[Any]

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_TOKENIZER, _SPECIAL = "tokenizer.json", "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
#: Bytes of the largest of these that is read.
_LARGEST = 1 << 22


def read_folder(folder: Path) -> Pretrained:
    """The model in a folder; its weights are mapped, not read.

    Errors: ModelFileError for a folder without config.json or weights, a family or a field that is not understood, and
    tensors that are missing, truncated, of other shapes, or more than the model has.
    """
    if not (folder / _CONFIG).is_file():
        inside = next(iter(sorted(folder.glob(f"*/{_CONFIG}"))), None)
        hint = f"a model's folder has one, beside {SINGLE}" if inside is None else f"did you mean {inside.parent}?"
        raise ModelFileError(f"{folder} has no {_CONFIG}; {hint}")
    fields = _read_object(folder / _CONFIG)
    format, blueprint = read_config(fields, str(folder / _CONFIG))
    tensors = map_folder(folder)
    if not any(name.startswith(format.prefix) for name in tensors):
        format = format.bare()
    names = parameter_names(format, blueprint)
    weights = Weights(names, tensors, format, str(folder))
    files = (folder / _CONFIG, *weight_files(folder))
    return Pretrained(folder, format, blueprint, weights, _speech(folder, fields), fields, files)


def write_folder(
    folder: Path, model: Pretrained, arrays: Mapping[str, Array] | None = None, *, over: bool = False
) -> None:
    """Writes `model`, with `arrays` in place of parameters that are now others, as a folder of its family.

    Tensors keep their names, types and order; config, tokenizer and template go along. The folder is there whole, or
    not at all; one that is there already is replaced if it may be written `over`. Errors: ConfigError if it may not, or
    cannot be written.
    """
    if folder.exists() and not over:
        raise ConfigError(f"{folder} is there already; choose a folder that is not, or remove it")
    partial, replaced = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "replaced"))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        weights = model.weights
        assert isinstance(weights, Weights)
        write_shards(partial, weights.written(arrays))
        if model.files and model.where.is_dir():
            for name in (_CONFIG, _GENERATION, _TOKENIZER, _SPECIAL, _TEMPLATE):
                if (model.where / name).is_file():
                    shutil.copyfile(model.where / name, partial / name)
        else:
            _describe(partial, model, weights.dtype)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        for each in (partial, replaced):
            shutil.rmtree(each, ignore_errors=True)


def _describe(folder: Path, model: Pretrained, dtype: str) -> None:
    """Writes what a folder says beside its tensors, of a model that comes from no folder."""
    speech = model.speech
    said: dict[str, Any] = {_CONFIG: write_config(model.format, model.blueprint, dtype)}
    said[_GENERATION] = {"eos_token_id": list(speech.ends)}
    if speech.tokenizer is not None:
        said[_TOKENIZER] = speech.tokenizer().said
    if speech.chat is not None:
        said[_SPECIAL] = {**speech.chat.tokens, "chat_template": speech.chat.source}
    for name, fields in said.items():
        text = json.dumps(fields, indent=2, ensure_ascii=False)
        write_bytes(folder / name, text.encode("utf-8"))


def _speech(folder: Path, config: Mapping[str, Any]) -> Speech:
    """How the model in a folder speaks, as far as its files say."""
    said = _read_object(folder / _SPECIAL) if (folder / _SPECIAL).is_file() else {}
    drawn = _read_object(folder / _GENERATION) if (folder / _GENERATION).is_file() else {}
    template = said.get("chat_template")
    if (folder / _TEMPLATE).is_file():
        template = _read_text(folder / _TEMPLATE)
    elif isinstance(template, list):  # several, by what for
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    tokens = {name: _text(said[name]) for name in said if name.endswith("_token") and _text(said[name])}
    ends = drawn.get("eos_token_id", config.get("eos_token_id"))
    ids = ends if isinstance(ends, list) else [ends]
    path = folder / _TOKENIZER
    return Speech(
        (lambda: FileTokenizer(str(path))) if path.is_file() else None,
        ChatTemplate(template, tokens) if isinstance(template, str) else None,
        tuple(id for id in ids if isinstance(id, int)),
    )


def _text(token: Any) -> str:
    """A special token's text, which may stand among what else is said of it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _read_object(path: Path) -> dict[str, Any]:
    try:
        said = read_json(_read_text(path))
    except ValueError as error:
        raise ModelFileError(f"{path} is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise ModelFileError(f"{path} is no JSON object")
    return said


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelFileError(f"{path} is larger than {_LARGEST >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ModelFileError(f"{path} is no UTF-8 text") from None
