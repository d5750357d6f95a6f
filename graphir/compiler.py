"""`gi.compile`: from a graph and sizes to something that runs. The one module that knows passes and backends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphir.errors import ConfigError
from graphir.ir.dims import dim_names, resolve_sizes
from graphir.ir.graph import Graph
from graphir.ir.verify import verify

if TYPE_CHECKING:
    from graphir.backends import Executable

BACKENDS = ("numpy", "reference")
KERNELS = ("numpy", "numba")


def compile(
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    backend: str = "numpy",
    kernels: str = "numpy",
    fetch: Sequence[str] | None = None,
    recompute: str = "masks",
    memory: float | None = None,
    threads: int | None = None,
    donate: bool = False,
    share_replicas: bool = False,
    without: Collection[str] = (),
    algorithm: str = "ring",
    ranks: str = "simulated",
    bucket: int | None = None,
) -> Executable:
    """An executable of `graph` for these sizes; it returns `fetch`, or the graph's outputs.

    backend    "numpy" runs the optimised graph as prepared calls on planned buffers; "reference" the graph as it is,
               node by node, by the operators' own kernels: slow, readable, and what "numpy" is checked against
    kernels    "numpy", or "numba": what lies between products runs in fused kernels, each a pass over memory where
               NumPy makes several; the first time it is met, a kernel is compiled for about a second
    recompute  what the backward pass computes again instead of holding it: see `passes.recompute`
    memory     bytes that a rank may need; where the plan needs more, more is recomputed, from level to level
    threads    of the numpy backend; as many as there are processors unless given. Results depend on their number
               (sums are added up in another order), and on nothing else
    donate     whether parameters and state that the graph updates are overwritten in the caller's arrays
    share_replicas  whether what simulated ranks would all compute alike is computed by one of them for all: faster,
               in more memory, and blind to a replica that goes astray
    without    optimising passes to leave out: `passes.OPTIMISING`
    algorithm  how the simulated ranks of a sharded graph reduce and gather: ring, direct or naive
    ranks      "simulated": this process runs all ranks of the graph's mesh; "mpi": it is one of as many processes, by
               mpiexec, and runs its own rank; see `backends.executable` for what it takes and returns
    bucket     bytes of gradients that travel together between processes, 1 MiB unless given; with 0, each by itself,
               and nothing else is done until it has arrived

    Only what the fetched values need is run.
    Errors: DimError if a dim has no size or does not divide; ConfigError for an unknown option, or where no level of
    recomputation fits into `memory`; VerifyError if the graph is malformed; MissingDependencyError where an optional
    package is asked for that is not installed.
    """
    from graphir.backends import plan
    from graphir.backends.buckets import LIMIT
    from graphir.backends.communicator import communicator_for
    from graphir.passes import LEVELS, prune
    from graphir.passes import recompute as recompute_pass

    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} is unknown; choose from {', '.join(BACKENDS)}")
    if kernels not in KERNELS:
        raise ConfigError(f"kernels={kernels!r} is unknown; choose from {', '.join(KERNELS)}")
    if kernels == "numba" and backend != "numpy":
        raise ConfigError(f'kernels="numba" is for backend="numpy", not for {backend!r}, which has its own')
    if recompute not in LEVELS:
        raise ConfigError(f"recompute={recompute!r} is no level; choose from {', '.join(LEVELS)}")
    communicator = communicator_for(graph.mesh, ranks, algorithm)
    fetch = [fetch] if isinstance(fetch, str) else fetch
    verify(graph)
    # Sizes are checked against the whole graph: what is fetched does not change which dims there are.
    complete = resolve_sizes([graph.dims], sizes)
    pruned = prune(graph, fetch)
    known = {name: complete[name] for name in dim_names([pruned.dims]) if name in complete}
    if backend == "reference":
        return plan(recompute_pass(pruned, recompute), known).executable(algorithm, graph, communicator)
    from graphir.backends.numpy import CompiledExecutable

    reference, fused = plan(pruned, known), None
    if kernels == "numba":
        from graphir.backends.numpy.fast import Kernels

        fused = Kernels()

    def compiled(level: str) -> CompiledExecutable:
        from graphir.passes import optimised

        program = optimised(pruned, level, without)
        return CompiledExecutable(
            reference,
            program,
            threads=threads,
            donate=donate,
            share_replicas=share_replicas,
            algorithm=algorithm,
            source=graph,
            communicator=communicator,
            bucket=LIMIT if bucket is None else bucket,
            kernels=fused,
        )

    if memory is None:
        return compiled(recompute)
    for level in LEVELS[LEVELS.index(recompute) :]:
        executable = compiled(level)
        if executable.memory.bytes <= memory:
            return executable
    raise ConfigError(f"{graph.name} does not fit into {memory / 1e6:.1f} MB:\n{executable.memory}")


def initialize(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """The first content of every parameter and state, by name: arrays as each one's `init` says, keyed by `seed`."""
    from graphir.backends import initialize

    return dict(initialize(graph, sizes, seed))
