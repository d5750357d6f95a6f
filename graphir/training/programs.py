"""The graphs of a training and what is compiled of them: the step, and the forward pass that validates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphir.backends import Executable
from graphir.compiler import compile
from graphir.errors import ConfigError, DimError
from graphir.ir.dims import dim_names
from graphir.ir.graph import Graph
from graphir.passes import Optimizer, Schedule, autodiff, mixed_precision, optimize
from graphir.training.budget import Need, need_of, tensor_bytes
from graphir.training.config import TF32, TrainConfig
from graphir.training.parallel import Parallel
from graphir.training.subject import subject_of


def training_graph(config: TrainConfig, padded: bool = False) -> Graph:
    """The whole step as one graph: forward, backward, clipping, schedule, updates unless a gradient is not finite."""
    model = forward_graph(config, config.dropout, padded)
    trained = subject_of(config).trained(model)
    differentiated = autodiff(model, wrt=trained, **config.differentiation_options())
    return optimize(differentiated, optimizer_of(config), trained, guarded=True)


def forward_graph(config: TrainConfig, dropout: float, padded: bool = False) -> Graph:
    """The model with its loss, in the configuration's precision."""
    model = subject_of(config).graph(dropout, padded)
    return mixed_precision(model, config.stored_precision, config.results)


def optimizer_of(config: TrainConfig) -> Optimizer:
    """The optimizer, with its schedule, that the configuration asks for."""
    config = config.resolved()
    assert config.schedule_steps is not None
    assert config.warmup is not None
    assert config.learning_rate is not None
    peak = config.learning_rate
    return Optimizer(
        kind=config.optimizer,
        learning_rate=Schedule(peak, config.schedule, config.warmup, config.schedule_steps, peak * config.floor),
        # A shorter memory than the usual 0.999: short runs at a high rate do better with it.
        beta2=0.99,
        weight_decay=config.weight_decay,
        # A limit of infinity changes nothing, but the norm is there to be watched.
        clip=config.clip or math.inf,
    )


@dataclass(frozen=True)
class Programs:
    """The step and the validation of a configuration, compiled and not yet allocated.

    graph   the whole step on one rank
    loss    the name of the loss in it
    """

    graph: Graph
    loss: str
    sizes: Mapping[str, int]
    step: Executable
    validation: Executable

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        parallel: Parallel,
        ranks: str = "simulated",
        backend: str = "numpy",
        recompute: str | None = None,
    ) -> Programs:
        """As `config` asks for, with `ranks`, `backend` and `recompute` of `gi.compile`; ConfigError for its sizes."""
        vocabulary = parallel.vocabulary
        sizes = subject_of(config).sizes(vocabulary.tokens) | vocabulary.sizes

        def compiled(graph: Graph, fetch: list[str], donate: bool = False) -> Executable:
            whole = {name: sizes[name] for name in dim_names([graph.dims]) if name in sizes}
            return compile(
                parallel.shard(graph, whole),
                whole,
                fetch=fetch,
                donate=donate,
                ranks=ranks,
                backend=backend,
                # The backend's own; what else products may read is the graph's.
                precision=TF32 if config.precision == TF32 else None,
                recompute=recompute,
                # Whoever trains asks first whether it fits, validation and checkpoints included, or will not ask.
                memory=math.inf,
            )

        graph = training_graph(config, vocabulary.padded)
        loss = next(value.name for value in graph.outputs if value.local_name == "L")
        fetch = [loss, "optimizer/lr", "optimizer/norm", *(value.name for value in graph.updates.values())]
        try:
            # The new is written over the old, which the guarded step leaves alone where it is still needed.
            step = compiled(graph, fetch, donate=True)
            return cls(graph, loss, sizes, step, compiled(forward_graph(config, 0.0, vocabulary.padded), [loss]))
        except DimError as error:
            known = f"--width {config.width} is D, --heads {config.heads} is N_H, --feed-forward D_ff, --batch B"
            options = "" if config.has_weights else f" ({known})"
            raise ConfigError(f"these sizes make no model: {error}{options}") from None

    def need(self, alone: bool = False) -> Need:
        """What a process needs; if `alone`, one that holds a single rank of the mesh."""
        return need_of(self.graph, self.sizes, self.step, self.validation, alone)


@dataclass(frozen=True)
class Needs:
    """What configurations would need, of a vocabulary of so many tokens: `budget.Planner`."""

    tokens: int

    def tensors(self, config: TrainConfig) -> int:
        """Bytes of parameters and state."""
        vocabulary = Parallel.of(config, self.tokens).vocabulary
        graph = training_graph(config, vocabulary.padded)
        return tensor_bytes(graph, subject_of(config).sizes(vocabulary.tokens) | vocabulary.sizes)

    def need(self, config: TrainConfig, level: str | None, alone: bool = False) -> Need:
        """Of all ranks of the configuration's mesh in one process, or, if `alone`, of one."""
        return Programs.of(config, Parallel.of(config, self.tokens), recompute=level).need(alone)
