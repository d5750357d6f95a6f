"""What the fields of a config.json mean: each a frozen declaration that reads its fields, and can write them again.

A key reads from a `Config`, which notes what was asked for, so that what nobody understands can be named. What it finds
it says as changes: of a `Composition` by the path of what changes, `norm.epsilon`, of sizes by the dim's name, `D_ff`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from graphir.errors import ModelFileError
from graphir.models.blueprint import Blueprint

#: What is found: values by the path of what they change, or by the dim that they are the size of.
Changes: TypeAlias = dict[str, Any]

_REQUIRED = object()


class Config:
    """The fields of a config.json, or of a part of it, and which of them were asked for."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields, self.where = fields, where
        self.asked: set[str] = set()

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The field's value, of that kind (a whole number is a `float`, too); `default` where it is null or not there.

        Errors: ModelFileError for a value of another kind, and for a field that is missing and has no default.
        """
        self.asked.add(name)
        value: Any = self._fields.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ModelFileError(f"{self.where} lacks {name}")
            return default
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and kind in (int, float):
            if not 0 <= value < 1 << 40:
                raise ModelFileError(f"{self.where}: {name} = {value} is no number that a model can have")
            return kind(value)
        if kind is int or not isinstance(value, kind):
            raise ModelFileError(f"{self.where}: {name} must be {kind.__name__}, not {value!r}")
        return value

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def part(self, name: str) -> Config | None:
        """A field whose value has fields of its own; None where it is null or not there."""
        said = self.get(name, dict, None)
        return None if said is None else Config(said, f"{self.where}: {name}")

    def refuse_rest(self, harmless: Sequence[str] = ()) -> None:
        """ModelFileError, naming it, for a field that nobody asked for and that is not harmless."""
        for name in sorted(self._fields.keys() - self.asked - set(harmless)):
            said = f"{name} = {self._fields[name]!r}"
            raise ModelFileError(f"{self.where}: {said} is not understood, and may change what the model computes")


class Key(Protocol):
    """One or several fields of a config, and what they say of a model."""

    def read(self, config: Config) -> Changes:
        """What the fields change."""

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """The fields as they are to be for `model`."""


def value_at(model: Blueprint, path: str) -> Any:
    """What stands at the path of a composition, or the size of the dim of that name."""
    if path in model.sizes:
        return model.sizes[path]
    found: Any = model.composition
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


@dataclass(frozen=True)
class Size:
    """A field that is the size of a dim; `default` may be the name of another field, so many `times` as large."""

    name: str
    dim: str
    default: Any = _REQUIRED
    times: int = 1

    def read(self, config: Config) -> Changes:
        """See `Key`."""
        default = self.times * config.get(self.default, int) if isinstance(self.default, str) else self.default
        value = config.get(self.name, int, default)
        return {} if value is None else {self.dim: value}

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """See `Key`."""
        return {self.name: model.sizes[self.dim]} if self.dim in model.sizes else {}


@dataclass(frozen=True)
class Part:
    """A field that is a value of the composition, at one or several paths.

    words    what the field's words are called here, where they differ; others are refused
    none     what stands for null
    """

    name: str
    paths: str
    kind: type
    default: Any = _REQUIRED
    words: Mapping[str, Any] = field(default_factory=dict)
    none: Any = None

    def read(self, config: Config) -> Changes:
        """See `Key`."""
        value = config.get(self.name, self.kind, self.default)
        if self.words and value not in self.words:
            known = ", ".join(map(str, self.words))
            raise ModelFileError(f"{config.where}: {self.name} = {value!r} is none of {known}")
        value = self.none if value is None else self.words.get(value, value)
        return dict.fromkeys(self.paths.split(), value)

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """See `Key`."""
        value = value_at(model, self.paths.split()[0])
        spelled = next((word for word, meant in self.words.items() if meant == value), value)
        return {self.name: None if value == self.none else spelled}


@dataclass(frozen=True)
class Fixed:
    """A field that has to be what it is in the models of the family that are built here."""

    name: str
    value: Any
    also: tuple[Any, ...] = ()

    def read(self, config: Config) -> Changes:
        """See `Key`."""
        value = config.get(self.name, object, self.value)
        if value != self.value and value not in self.also:
            raise ModelFileError(f"{config.where}: {self.name} = {value!r} is not supported, only {self.value!r}")
        return {}

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """See `Key`."""
        return {self.name: self.value}


@dataclass(frozen=True)
class Biases:
    """Whether maps of attention have biases: those in `maps` where the field says so."""

    name: str
    maps: str

    def read(self, config: Config) -> Changes:
        """See `Key`."""
        return {"attention.biases": self.maps if config.get(self.name, bool, False) else ""}

    def write(self, model: Blueprint) -> Mapping[str, Any]:
        """See `Key`."""
        return {self.name: bool(model.composition.attention.biases)}
