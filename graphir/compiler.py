"""`gi.compile`: from a graph and sizes to something that runs. The one module that knows passes and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphir.errors import ConfigError
from graphir.ir.dims import dim_names, resolve_sizes
from graphir.ir.graph import Graph
from graphir.ir.verify import verify

if TYPE_CHECKING:
    from graphir.backends import Executable

BACKENDS = ("numpy",)


def compile(
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    backend: str = "numpy",
    fetch: Sequence[str] | None = None,
    store_masks: bool = False,
    algorithm: str = "ring",
) -> Executable:
    """An executable of `graph` for these sizes; it returns `fetch`, or the graph's outputs.

    Only what the fetched values need is run. Dropout masks are computed again in the backward pass unless
    `store_masks` asks to keep them. A sharded graph runs on simulated ranks, whose collectives use `algorithm`:
    ring, direct or naive.
    Errors: DimError if a dim has no size or does not divide, ConfigError for an unknown backend,
    VerifyError if the graph is malformed.
    """
    from graphir.backends import plan
    from graphir.passes import prune, recompute_masks

    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} is unknown; choose from {', '.join(BACKENDS)}")
    fetch = [fetch] if isinstance(fetch, str) else fetch
    verify(graph)
    # Sizes are checked against the whole graph: what is fetched does not change which dims there are.
    complete = resolve_sizes([graph.dims], sizes)
    pruned = prune(graph, fetch)
    if not store_masks:
        pruned = recompute_masks(pruned)
    known = {name: complete[name] for name in dim_names([pruned.dims]) if name in complete}
    return plan(pruned, known).executable(algorithm, graph)


def initialize(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """The first content of every parameter and state, by name: arrays as each one's `init` says, keyed by `seed`."""
    from graphir.backends import initialize

    return dict(initialize(graph, sizes, seed))
