"""Modules of CUDA kernels, by their text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

_OPTIONS = ("-std=c++17",)


class Module(Protocol):
    """What of `cupy.RawModule` is used."""

    def get_function(self, name: str) -> Callable[..., None]: ...


_COMPILED: dict[tuple[Any, str], Callable[..., None]] = {}


def compiled(xp: Any, text: str) -> Callable[..., None]:
    """The kernel `run` of a module with this text, compiled once in a process."""
    key = xp.RawModule, text
    if key not in _COMPILED:
        # CuPy writes it to a file in the locale's encoding, which may lack the signs that comments have.
        plain = text.encode("ascii", "replace").decode("ascii")
        module: Module = xp.RawModule(code=plain, options=_OPTIONS)
        _COMPILED[key] = module.get_function("run")
    return _COMPILED[key]
