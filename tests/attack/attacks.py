"""Which attacks there are: modules of this package, each with a generator of its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TypeAlias

#: From a seed to trials: what was attacked, and what came of it.
Attack: TypeAlias = Callable[[int], Iterator[tuple[str, str]]]

#: What each attack does.
ATTACKS = {
    "texts": "texts that were made up or damaged are parsed, verified, compiled and run",
    "files": "checkpoints, metrics, configurations and tokenizers that were damaged are read",
    "kills": "trainings are killed at random moments, and gone on with",
    "folders": "two trainings in one folder",
    "disk": "trainings on a disk that is full",
    "signals": "storms of signals",
    "strangers": "strangers at the port where ranks meet",
    "ranks": "ranks that are killed, or are otherwise than the others",
    "cycles": "executables, over and over, and from several threads",
}


def available() -> list[str]:
    """The names of the attacks that are there."""
    return [name for name in ATTACKS if find_spec(f"tests.attack.{name}") is not None]


def load_attack(name: str) -> Attack:
    """The attack of that name."""
    attack: Attack = getattr(import_module(f"tests.attack.{name}"), name)
    return attack
