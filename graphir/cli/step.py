"""The training step that `cost` and `profile` speak of: that of the documents' Transformer, or of any other graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphir.cli.load import TRANSFORMER, Subject, build_graph, find_model, has_weights, is_named, subject
from graphir.cli.options import require_ranks
from graphir.errors import ConfigError
from graphir.ir.dims import dim_names
from graphir.options import options_of
from graphir.training.config import TrainConfig

if TYPE_CHECKING:
    from graphir.ir.graph import Graph
    from graphir.training.parallel import Parallel


@dataclass(frozen=True)
class Asked:
    """What a command is asked of.

    build      the graph with so many layers, as far as the part that is asked for, on one rank
    sizes      of all dims
    layers     how many the model has; None where the number of layers is no option
    period     after how many layers they repeat each other
    weights    a model's own parameters, by name
    """

    name: str
    build: Callable[[int | None], Graph]
    sizes: Mapping[str, int]
    parallel: Parallel
    layers: int | None = None
    period: int = 1
    weights: Mapping[str, Any] | None = None

    def graph(self, layers: int | None = None) -> Graph:
        """What a rank runs, of as many layers as there are, or as `layers` says."""
        from graphir.backends.plan import require_even
        from graphir.cost import mesh_sizes

        built = self.build(layers or self.layers)
        graph = self.parallel.shard(built, self.needed(built))
        require_even(graph, mesh_sizes(graph, self.needed(graph)))
        return graph

    def needed(self, graph: Graph) -> dict[str, int]:
        """The sizes of those dims that the graph has."""
        names = dim_names([graph.dims])
        return {name: size for name, size in self.sizes.items() if name in names}


def config_of(options: Mapping[str, Any]) -> TrainConfig:
    """What the options of a command say of a step; --size is of the graph that it is asked of, whichever that is."""
    names = options_of(TrainConfig).keys() & options.keys() - {"size"}
    return TrainConfig(**{name: options[name] for name in names}).check()


def asked(
    what: str,
    part: str,
    config: TrainConfig,
    vocabulary: int,
    options: Mapping[str, Any],
    written: Collection[str],
) -> Asked:
    """What a command is asked of by these options, `written` being those that the user wrote.

    `part` is what of a step is wanted: forward, step (gradients, too) or train (and the update).
    Errors: ConfigError for options that the model has not, or a graph of one's own; what loads and builds raise.
    """
    from graphir.training.parallel import Parallel

    parallel = Parallel.of(config, vocabulary)
    require_ranks(config.plan, config.mesh().size)
    told = {**config.model_options(), **options, "vocabulary": vocabulary}
    if what == TRANSFORMER:
        build_graph(what, {**told, "layers": 1}, written)  # refuses what it has not
        sizes = config.sizes(vocabulary) | parallel.vocabulary.sizes
        return Asked(what, lambda layers: _transformer(config, layers, part, parallel), sizes, parallel, config.layers)
    if is_named(what) and not has_weights(what):
        return _by_name(what, part, config, parallel, told, written)
    found = subject(what, told, written)
    missing = {name: None for each in found.graph.dims for name, _ in each.expanded[1] if name not in found.sizes}
    if missing:
        raise ConfigError(f"{what} has dims without a size; give {' '.join(f'--size {name}=…' for name in missing)}")
    return Asked(
        what, lambda layers: _part_of(found.graph, part, config), found.sizes, parallel, weights=found.weights
    )  # fmt: skip


def _by_name(
    what: str, part: str, config: TrainConfig, parallel: Parallel, options: Mapping[str, Any], written: Collection[str]
) -> Asked:
    """A model by name, which can be built with any number of layers."""

    def of_layers(layers: int | None) -> Subject:
        return subject(what, {**options, "layers": layers}, {*written, "layers"})

    return Asked(
        what,
        lambda layers: _part_of(of_layers(layers).graph, part, config),
        of_layers(1).sizes,
        parallel,
        *depth_of(what, options, written),
    )


def depth_of(what: str, options: Mapping[str, Any], written: Collection[str]) -> tuple[int | None, int]:
    """How many layers a model by name has, None where that is no option, and after how many they repeat each other."""
    if not is_named(what) or has_weights(what):
        return None, 1
    parts = find_model(what)[0].composition
    period = len(parts.attention.windowed) if parts.attention.window else 1
    return options["layers"] if "layers" in written else parts.layers, period


def _transformer(config: TrainConfig, layers: int | None, part: str, parallel: Parallel) -> Graph:
    """The documents' Transformer, with the options of a training and other `layers`."""
    from graphir.passes import autodiff
    from graphir.training.programs import forward_graph, training_graph

    config = replace(config, layers=layers or config.layers)
    if part == "train":
        return training_graph(config, parallel.vocabulary.padded)
    model = forward_graph(config, config.dropout, parallel.vocabulary.padded)
    return model if part == "forward" else autodiff(model)


def _part_of(graph: Graph, part: str, config: TrainConfig) -> Graph:
    """Any graph, with gradients and an update as far as `part` asks, and as far as it has what they need."""
    from graphir.ir.graph import UPDATE
    from graphir.passes import mixed_precision, optimize, with_gradients
    from graphir.training.programs import optimizer_of

    graph = mixed_precision(graph, config.stored_precision, config.results)
    if part == "forward":
        return graph
    step = with_gradients(graph)
    if part == "step" or not step.parameters or any(node.meta.phase == UPDATE for node in step.nodes):
        return step
    return optimize(step, optimizer_of(config), guarded=True)
