"""Export: a model's graph in a format that other programs run.

Each format is a package of its own, which says how a graph becomes a file, and imports the format's library only when
something is exported. `FORMATS` is the table by which the command line finds them: a format more is an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from graphir.errors import ConfigError
from graphir.options import Option, flag

__all__ = ["FORMATS", "Format"]


@dataclass(frozen=True)
class Format:
    """A format's entry.

    help      what it is, as the command line's help says it
    module    has `save(graph, path, sizes, fetch=…, parameters=…, **options)`
    options   its own options
    steps     whether it has gradients, updates and ranks, too, for sizes that are all known; else it has the forward
              graph, whose batch and length may stay open
    """

    help: str
    module: str
    options: Mapping[str, Option]
    steps: bool = False

    def chosen(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `given` that are not None; ConfigError, with who has it, for an option of another format."""
        told = {option: value for option, value in given.items() if value is not None}
        for option in told.keys() - self.options.keys():
            owners = ", ".join(other for other, each in FORMATS.items() if option in each.options)
            raise ConfigError(f"the format {name} has no {flag(option)}; it is an option of {owners}")
        return {option: self.options[option].check(flag(option), value) for option, value in told.items()}

    @property
    def save(self) -> Callable[..., None]:
        """What writes a graph into a file."""
        write: Callable[..., None] = import_module(self.module).save
        return write


_OPSET = Option(
    default=None,
    help="The version of ONNX's operators.  [default: the newest that the package onnx has]",
    kind=int,
    least=1,
    group="ONNX",
)

#: The formats by name.
FORMATS: dict[str, Format] = {
    "onnx": Format("ONNX, for onnxruntime and others", "graphir.export.onnx", {"opset": _OPSET}),
    "stablehlo": Format("StableHLO, for XLA's compilers", "graphir.export.stablehlo", {}, steps=True),
}
