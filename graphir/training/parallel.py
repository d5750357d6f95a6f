"""Training on the simulated ranks of a mesh: what the options --dp, --cp, --tp and --plan make of a graph.

Arguments and results of a sharded executable are whole arrays, so the loop, the checkpoints and the metrics know
nothing of ranks, and a run saved under one mesh goes on under another.

Where a plan splits the vocabulary, each rank's share has as many rows as --vocabulary-multiple wants, and all of them
equally many: the model is built with V_pad rows, checkpoints hold V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphir.ir.graph import Graph
from graphir.ir.layout import Mesh
from graphir.passes import Plan, complete_plan, dce, shard
from graphir.training.config import TrainConfig
from graphir.training.vocabulary import Vocabulary

_V = "V"


@dataclass(frozen=True)
class Parallel:
    """A mesh and a plan for a model with this vocabulary; one rank and no plan by default."""

    mesh: Mesh
    plan: Plan
    vocabulary: Vocabulary

    @classmethod
    def of(cls, config: TrainConfig, tokens: int, backend: str = "numpy") -> Parallel:
        """What the configuration asks for; LayoutError for a plan that is unknown."""
        mesh, plan = config.mesh(), plan_of(config)
        multiple = config.multiple_on(backend) * mesh.count(plan.axes_over(_V))
        return cls(mesh, plan, Vocabulary.of(tokens, multiple))

    def shard(self, graph: Graph, sizes: Mapping[str, int]) -> Graph:
        """The graph of every rank."""
        return shard(dce(graph), self.mesh, self.plan, sizes) if self.mesh.axes else graph


def plan_of(config: TrainConfig) -> Plan:
    """The plan that the options mean: each axis has one rank unless they say otherwise, and then splits nothing.

    LayoutError for one that is unknown.
    """
    mesh = config.mesh()
    return complete_plan(config.plan, mesh).within(mesh)
