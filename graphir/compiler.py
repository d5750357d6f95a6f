"""`gi.compile`: from a graph and sizes to something that runs. The one module that knows passes and backends."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphir.errors import ConfigError
from graphir.ir.collector import without_collector
from graphir.ir.dims import dim_names
from graphir.ir.extent import bind_sizes
from graphir.ir.graph import Graph
from graphir.ir.verify import verify

if TYPE_CHECKING:
    from graphir.backends import Executable
    from graphir.backends.communicator import Communicator
    from graphir.backends.entries import Job
    from graphir.backends.registry import Backend

#: Whether programs are proved unless a call says otherwise; so it is in the tests.
CHECK = False


@without_collector
def compile(
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    backend: str = "numpy",
    fetch: Sequence[str] | None = None,
    recompute: str | None = None,
    memory: float | None = None,
    without: Collection[str] = (),
    donate: bool = False,
    ranks: str = "simulated",
    check: bool | None = None,
    **options: Any,
) -> Executable:
    """An executable of `graph` for these sizes; it returns `fetch`, or the graph's outputs.

    backend    "numpy" runs the optimised graph as prepared calls on planned buffers; "cupy" does so on a GPU, in CUDA
               graphs: results are CuPy arrays, and `run.numpy(name)` brings one home; "xla" hands the kernels to JAX,
               as one function, on a device for each rank of a mesh; "reference" runs the graph as it is, node by node,
               by the operators' own kernels: slow, readable, and what the others are checked against
    recompute  what the backward pass computes again instead of holding it: see `passes.recompute`. Unless given,
               "masks"; on a GPU "attention", so that scores never leave the kernels that make them
    memory     bytes that a rank may need; where the plan needs more, more is recomputed, from level to level. Unless
               given, what the ranks held here need has to fit into this machine; with infinity nothing is asked
    without    optimising passes to leave out: `passes.PIPELINE`; of these keep_softmax_statistics is done on a GPU only
    donate     whether parameters and state that the graph updates are overwritten in the caller's arrays, of which none
               may share memory with another argument's; on a GPU, in the arrays that `run.updated()` returns, which the
               next run takes as they are: there is room for the state of one training
    ranks      "simulated": this process runs all ranks of the graph's mesh; "mpi", or "nccl" of the cupy backend: it is
               one of as many processes, by mpiexec or torchrun, and runs its own rank, under NCCL on its own GPU; see
               `backends.executable` for what it takes and returns. All processes have to compile the same graph, for
               the same sizes, with the same options, in the same order, and compare them here; where their machines
               differ, `executable.communicator.differences` says in what
    check      whether the program that is to run is proved first: that every read sees what was last written of its
               value, that threads do not disturb each other, that results are whole; it takes about as long again as to
               plan and write the program, which is then written at once, and not by the first run.
               `executable.proofs` says what has been proved, and what such a proof cannot see
    options    the backend's own, such as `threads=2, kernels="numba"` of numpy or `precision="tf32"` of cupy: its entry
               in `backends.registry` declares them; one that is None is not given

    Only what the fetched values need is run.
    Errors: DimError if a dim has no size or does not divide; SizeError for tensors, or a plan, larger than the machine;
    ConfigError for an option that is unknown, or another backend's, or where no level of
    recomputation fits into `memory`; VerifyError if the graph is malformed; ProofError where `check` finds a program
    that does not do what its graph says, a defect of graphir; AgreementError where the processes of several ranks
    do not compile the same, with who differs in what; MissingDependencyError where an optional package is asked
    for that is not installed; DeviceError where a GPU is needed and there is none.
    """
    from graphir.backends.capacity import require_room
    from graphir.backends.communicator import communicator_for
    from graphir.backends.entries import Job
    from graphir.backends.plan import plan
    from graphir.backends.registry import find_backend
    from graphir.passes import dce, unfuse

    entry = find_backend(backend)
    levels = _levels(entry, recompute, memory)
    chosen = _chosen(entry, ranks, options, check)
    communicator = communicator_for(graph.mesh, ranks, chosen.get("algorithm", "ring"), backend)
    fetch = [fetch] if isinstance(fetch, str) else fetch
    graph = unfuse(verify(graph))
    # Sizes are checked against the whole graph: what is fetched does not change which dims there are.
    complete = bind_sizes(graph, sizes)
    if communicator.meets_others:
        told = {"fetch": fetch, "recompute": levels[0], "memory": memory, "donate": donate, "without": sorted(without)}
        _agree(communicator, entry, graph, complete, chosen, told)
    pruned = dce(graph, fetch)
    planned = plan(pruned, {name: complete[name] for name in dim_names([pruned.dims]) if name in complete})
    # A device has memory of its own, and says itself when that does not suffice.
    limited = memory is None and not entry.on_device
    if limited:
        require_room(planned, len(communicator.ranks), stored=False)
    check = entry.programs and (CHECK if check is None else check)
    jobs = (
        Job(planned, _optimised(pruned, entry, level, without), graph, communicator, chosen, donate, check, limited)
        for level in levels
    )
    return _first_that_fits(entry, jobs, memory)


def _levels(entry: Backend, recompute: str | None, memory: Any) -> Sequence[str]:
    """The levels of recomputation to be tried: that which is asked for, and, to fit into `memory`, those beyond."""
    from graphir.passes import LEVELS

    if memory is not None and not (isinstance(memory, int | float) and memory > 0):
        raise ConfigError(f"memory={memory!r} is no number of bytes; give what a rank may need, or leave it out")
    level = recompute or entry.recompute
    if level not in LEVELS:
        raise ConfigError(f"recompute={level!r} is no level; choose from {', '.join(LEVELS)}")
    return LEVELS[LEVELS.index(level) :] if memory is not None and entry.compiles else (level,)


def _chosen(entry: Backend, ranks: str, options: Mapping[str, Any], check: bool | None) -> dict[str, Any]:
    """Every option of the backend; ConfigError for those that it does not have, or that cannot be."""
    from graphir.passes import PRECISIONS

    if options.get("precision") in PRECISIONS[1:]:
        precision = options["precision"]
        raise ConfigError(
            f"precision={precision!r} is a property of the graph, not of how it is run: compile "
            f"passes.mixed_precision(graph, {precision!r}), made before autodiff"
        )
    if check and not entry.programs:
        raise ConfigError(f"check is for programs that graphir writes; backend={entry.name!r} runs none of them")
    return entry.chosen(options, ranks)


def _optimised(graph: Graph, entry: Backend, level: str, without: Collection[str]) -> Graph:
    """The graph through the optimising passes that the backend takes, but for those to be left out."""
    from graphir.passes import PIPELINE, run_pipeline

    unwanted = () if entry.passes is None else set(PIPELINE).difference(entry.passes)
    return run_pipeline(graph, level, {*without, *unwanted}, on_gpu=entry.on_device)


def _first_that_fits(entry: Backend, jobs: Iterable[Job], memory: float | None) -> Executable:
    """The executable of the first job whose plan needs no more than `memory`; ConfigError where none does so."""
    limit = math.inf if memory is None else memory
    for job in jobs:
        executable: Any = entry.make(job)
        need = None if limit == math.inf else executable.memory
        if need is None or need.bytes <= limit:
            return executable  # type: ignore[no-any-return]
    raise ConfigError(f"{job.source.name} does not fit into {limit / 1e6:.1f} MB:\n{executable.memory}")


def _agree(
    communicator: Communicator,
    entry: Backend,
    graph: Graph,
    sizes: Mapping[str, int],
    chosen: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """AgreementError unless all ranks compile the same, for the same sizes and with the same options."""
    from graphir.backends.communicator import Terms, require_agreement
    from graphir.text import fingerprint, to_text

    alike = {name: value for name, value in chosen.items() if not entry.options[name].free}
    common = {**sizes, "backend": entry.name, **alike, **told}
    terms = Terms(
        f"gi.compile(graph {graph.name})",
        {name: "not given" if value is None else str(value) for name, value in common.items()}
        | {"the graph": fingerprint(graph)},
        entry.machine(chosen),
        {"the graph": lambda: to_text(graph, meta=False)},
    )
    communicator.differences = require_agreement(communicator, terms)


def initialize(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """The first content of every parameter and state, by name: arrays as each one's `init` says, keyed by `seed`."""
    from graphir.backends import initialize

    return dict(initialize(graph, sizes, seed))
