"""Training on the simulated ranks of a mesh: what the options --dp, --cp, --tp and --plan make of a graph.

Arguments and results of a sharded executable are whole arrays, so the loop, the checkpoints and the metrics know
nothing of ranks, and a run saved under one mesh goes on under another.

Where a plan splits a vocabulary that the ranks cannot share evenly, the model is built with V_pad rows, the next
multiple; checkpoints hold V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.ir.dims import Dim
from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.ir.value import Value
from graphir.passes import Plan, complete_plan, prune, shard
from graphir.training.config import TrainConfig

_V, _V_PAD = "V", "V_pad"


@dataclass(frozen=True)
class Parallel:
    """A mesh and a plan for a model of `vocabulary` tokens; one rank and no plan by default."""

    mesh: Mesh
    plan: Plan
    vocabulary: int

    @classmethod
    def of(cls, config: TrainConfig, vocabulary: int) -> Parallel:
        """What the configuration asks for; LayoutError for a plan that is unknown or does not fit the mesh."""
        mesh = config.mesh()
        return cls(mesh, complete_plan(config.plan, mesh), vocabulary)

    @property
    def padded(self) -> int | None:
        """V_pad, if the vocabulary is split and V does not divide."""
        ranks = self.mesh.count({axis for _, split in self.plan.entries("parameters") for axis in _axes_of_v(split)})
        return None if self.vocabulary % ranks == 0 else -(-self.vocabulary // ranks) * ranks

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that the model needs beside the configuration's."""
        return {} if self.padded is None else {_V_PAD: self.padded}

    def shard(self, graph: Graph, sizes: Mapping[str, int]) -> Graph:
        """The graph of every rank."""
        return shard(prune(graph), self.mesh, self.plan, sizes) if self.mesh.axes else graph

    def strip(self, graph: Graph, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays of parameters and state without the rows that only pad the vocabulary."""
        return {name: array[self._tokens(graph, name)] for name, array in arrays.items()}

    def pad(self, graph: Graph, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays with such rows of zeros added: nothing reads them, and their gradient is zero."""
        result = dict(arrays)
        for value in (*graph.parameters, *graph.state):
            array = arrays.get(value.name)
            if array is not None and self.padded and array.ndim == len(value.shape):
                missing = [self.padded - self.vocabulary if _is_padded(dim) else 0 for dim in value.shape]
                if any(missing):
                    result[value.name] = np.pad(array, [(0, count) for count in missing])
        return result

    def _tokens(self, graph: Graph, name: str) -> tuple[slice, ...]:
        value: Value = graph[name]
        return tuple(slice(self.vocabulary) if _is_padded(dim) else slice(None) for dim in value.shape)


def _axes_of_v(split: str) -> list[str]:
    name, *axes = split.split("|")
    return axes if name == _V else []


def _is_padded(dim: Dim) -> bool:
    return str(dim) == _V_PAD
