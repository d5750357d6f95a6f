"""From a config.json to a model, and back, by the table of its family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from graphir.errors import ModelFileError
from graphir.hub.formats import FORMATS, HARMLESS, Format
from graphir.hub.keys import Config
from graphir.models.blueprint import Blueprint


def read_config(fields: Mapping[str, Any], where: str) -> tuple[Format, Blueprint]:
    """The family that these fields of a config.json are of, and the model that they say.

    Errors: ModelFileError for a family that is not known (the nearest one is named), a field that is missing or
    impossible, and one that is not understood.
    """
    config = Config(fields, where)
    kind = config.get("model_type", str)
    if kind not in FORMATS:
        raise ModelFileError(f"{where}: model_type {kind!r} is not known; {nearest(kind, FORMATS)}")
    format = FORMATS[kind]
    lacking = _lacking(format, config)
    changes: dict[str, Any] = {}
    for key in format.keys:
        changes |= key.read(config)
    config.refuse_rest(HARMLESS)
    composition, sizes = format.family, {}
    for path, value in {**changes, **lacking}.items():
        if path[0].isupper():
            sizes[path] = value
        else:
            composition = _changed(composition, path.split("."), value)
    if "D_h" not in sizes and sizes["D"] % max(sizes["N_H"], 1):
        raise ModelFileError(f"{where}: N_H={sizes['N_H']} heads do not divide D={sizes['D']}")
    if min(sizes.values()) < 1 or composition.layers < 1:
        raise ModelFileError(f"{where}: a size is 0: {sizes}, {composition.layers} layers")
    return format, Blueprint(composition, sizes)


def nearest(kind: str, known: Collection[str]) -> str:
    """Which of the kinds that are known one that is not comes nearest to, and all of them."""
    return f"{get_close_matches(kind, known, n=1, cutoff=0.0)[0]} is, of {', '.join(known)}"


def write_config(format: Format, model: Blueprint, dtype: str) -> dict[str, Any]:
    """The fields of a config.json that says `model`, whose weights are written as `dtype`."""
    fields: dict[str, Any] = {}
    for key in format.keys:
        fields |= key.write(model)
    lacks = [name for name, each in format.architectures.items() if all(_has(model, *item) for item in each.items())]
    # Of a class that lacks more, more fits.
    name = max(lacks, key=lambda name: len(format.architectures[name]))
    return {"architectures": [name], "model_type": format.kind, "dtype": dtype, **fields}


def _lacking(format: Format, config: Config) -> Mapping[str, object]:
    """What the classes that the config names change; those of the family's first, where it names none."""
    named = config.get("architectures", list, None) or [next(iter(format.architectures))]
    for name in named:
        if name in format.architectures:
            return format.architectures[name]
    raise ModelFileError(
        f"{config.where}: {', '.join(map(str, named))} is not known of {format.kind}, only "
        f"{', '.join(format.architectures)}"
    )


def _has(model: Blueprint, path: str, value: object) -> bool:
    found: Any = model.composition
    for name in path.split("."):
        found = getattr(found, name)
    return bool(found == value)


def _changed(part: Any, path: list[str], value: object) -> Any:
    """A frozen part of a composition with another value at the path; where there is no such part, as it is."""
    if part is None:
        return None
    name, *rest = path
    return replace(part, **{name: _changed(getattr(part, name), rest, value) if rest else value})
