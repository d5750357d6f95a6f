"""What a figure is: where it stands in the documents, which graph it is a view of, and which view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphir.drawing.picture import Picture
from graphir.drawing.view import View
from graphir.errors import ConfigError
from graphir.ir.graph import Graph
from graphir.models import Blueprint


@dataclass(frozen=True)
class FigureConfig:
    """The model and machine that the figures are drawn of.

    layers, heads   of the Transformer; `heads` is N_H where numbers are wanted
    dp, tp          replicas and GPUs a replica in the parallel figures
    options         further options of `gi.models.transformer`, as pairs
    lowered         whether backward figures show dMatmul taken apart into T and •
    full            whether BC, dAddB and seeds are drawn as nodes and edges
    expand          layers that an overall figure draws on their own
    model           another model in the Transformer's place, which has no further options
    """

    layers: int = 2
    heads: int = 6
    dp: int = 2
    tp: int = 3
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    lowered: bool = False
    full: bool = False
    expand: tuple[int, ...] = ()
    model: Blueprint | None = None

    def __post_init__(self) -> None:
        if isinstance(self.options, Mapping):
            object.__setattr__(self, "options", tuple(sorted(self.options.items())))
        if self.model is not None and self.options:
            names = ", ".join(dict(self.options))
            raise ConfigError(f"{names}: for the documents' Transformer; what another model is, its name says")
        for name in ("layers", "heads", "dp", "tp"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"figures need {name} to be a positive number, not {value!r}")
        if self.model is None and self.heads % self.tp:
            raise ConfigError(f"heads={self.heads} do not divide among tp={self.tp} GPUs; choose a multiple of tp")


@dataclass(frozen=True)
class FigureInfo:
    """A figure by name: `where` is its place in the documents A and B."""

    id: str
    title: str
    where: str
    caption: str


#: A sentence that a caption ends with, from the figure's graph.
Costs: TypeAlias = Callable[[Graph, FigureConfig], str]


@dataclass(frozen=True)
class Figure:
    """A figure's declaration. `graph` and `view` follow from the configuration; `caption` may need the graph."""

    id: str
    title: str
    where: str
    caption: str
    graph: Callable[[FigureConfig], Graph]
    view: Callable[[FigureConfig], View]
    costs: Costs | None = None
    finish: Callable[[Picture, Graph], Picture] | None = None

    @property
    def info(self) -> FigureInfo:
        """What a list of figures says of it."""
        return FigureInfo(self.id, self.title, self.where, self.caption)
