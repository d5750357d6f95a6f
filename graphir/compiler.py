"""`gi.compile`: from a graph and sizes to something that runs. The one module that knows passes and backends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
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
    from graphir.backends.compiled.executable import CompiledExecutable
    from graphir.backends.compiled.tiles import Tiling

BACKENDS = ("numpy", "cupy", "reference")
KERNELS = ("numpy", "numba")
#: Backends of GPUs. Their kernels make attention's scores, and its gradient's, without storing them: unless told
#: otherwise, P is recomputed.
_GPU = frozenset({"cupy"})
#: How the products of float32 are multiplied.
TF32 = "tf32"
PRECISIONS = ("float32", TF32)
#: Whether programs are proved unless a call says otherwise; so it is in the tests.
CHECK = False


@without_collector
def compile(
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    backend: str = "numpy",
    kernels: str | None = None,
    precision: str = "float32",
    fetch: Sequence[str] | None = None,
    recompute: str | None = None,
    memory: float | None = None,
    threads: int | None = None,
    donate: bool = False,
    share_replicas: bool = False,
    without: Collection[str] = (),
    algorithm: str = "ring",
    ranks: str = "simulated",
    bucket: int | None = None,
    check: bool | None = None,
    tiling: Tiling | None = None,
) -> Executable:
    """An executable of `graph` for these sizes; it returns `fetch`, or the graph's outputs.

    backend    "numpy" runs the optimised graph as prepared calls on planned buffers; "cupy" does so on a GPU, in CUDA
               graphs: results are CuPy arrays, and `run.numpy(name)` brings one home; "reference" runs the graph as it
               is, node by node, by the operators' own kernels: slow, readable, and what the others are checked against
    kernels    of the numpy backend: "numpy", unless given, or "numba": what lies between products runs in fused
               kernels, each a pass over memory where NumPy makes several; the first time it is met, a kernel is
               compiled for about a second
    precision  of the cupy backend's products of float32: "float32", or "tf32": factors are rounded to 10 bits after
               the point, which tensor cores multiply several times faster; sums stay float32
    recompute  what the backward pass computes again instead of holding it: see `passes.recompute`. Unless given,
               "masks"; on a GPU "attention", so that scores never leave the kernels that make them
    memory     bytes that a rank may need; where the plan needs more, more is recomputed, from level to level. Unless
               given, what the ranks held here need has to fit into this machine; with infinity nothing is asked
    threads    of the numpy backend; as many as there are processors unless given. Results depend on their number
               (sums are added up in another order), and on nothing else
    donate     whether parameters and state that the graph updates are overwritten in the caller's arrays, of which none
               may share memory with another argument's; on a GPU, in the arrays that `run.updated()` returns, which the
               next run takes as they are: there is room for the state of one training
    share_replicas  whether what simulated ranks would all compute alike is computed by one of them for all: faster,
               in more memory, and blind to a replica that goes astray
    without    optimising passes to leave out: `passes.PIPELINE`; of these keep_softmax_statistics is done on a GPU only
    algorithm  how the simulated ranks of a sharded graph reduce and gather: ring, direct or naive
    ranks      "simulated": this process runs all ranks of the graph's mesh; "mpi", or "nccl" of the cupy backend: it is
               one of as many processes, by mpiexec or torchrun, and runs its own rank, under NCCL on its own GPU; see
               `backends.executable` for what it takes and returns. All processes have to compile the same graph, for
               the same sizes, with the same options, in the same order, and compare them here; where their machines
               differ, `executable.communicator.differences` says in what
    bucket     bytes of gradients that travel together between processes, 1 MiB unless given; with 0, each by itself,
               and nothing else is done until it has arrived
    check      whether the program that is to run is proved first: that every read sees what was last written of its
               value, that threads do not disturb each other, that results are whole; it takes about as long again as to
               plan and write the program, which is then written at once, and not by the first run.
               `executable.proofs` says what has been proved, and what such a proof cannot see
    tiling     how tasks are cut into tiles and shared by threads, if not as the backend has it: for tests, and to tune

    Only what the fetched values need is run.
    Errors: DimError if a dim has no size or does not divide; SizeError for tensors, or a plan, larger than the machine;
    ConfigError for an unknown option, or where no level of
    recomputation fits into `memory`; VerifyError if the graph is malformed; ProofError where `check` finds a program
    that does not do what its graph says, a defect of graphir; AgreementError where the processes of several ranks
    do not compile the same, with who differs in what; MissingDependencyError where an optional package is asked
    for that is not installed; DeviceError where a GPU is needed and there is none.
    """
    from graphir.backends import Executable, plan
    from graphir.backends.buckets import LIMIT
    from graphir.backends.capacity import require_room
    from graphir.backends.communicator import communicator_for
    from graphir.passes import LEVELS, dce, unfuse
    from graphir.passes import recompute as recompute_pass

    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} is unknown; choose from {', '.join(BACKENDS)}")
    if kernels is not None and kernels not in KERNELS:
        raise ConfigError(f"kernels={kernels!r} is unknown; choose from {', '.join(KERNELS)}")
    if kernels == "numba" and backend != "numpy":
        raise ConfigError(f'kernels="numba" is for backend="numpy", not for {backend!r}, which has its own')
    if precision in ("bfloat16", "float16"):
        raise ConfigError(
            f"precision={precision!r} is a property of the graph, not of how it is run: compile "
            f"passes.mixed_precision(graph, {precision!r}), made before autodiff"
        )
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    if precision == TF32 and backend != "cupy":
        raise ConfigError(
            f'precision="tf32" is what tensor cores do, for backend="cupy", not for {backend!r}; leave it out'
        )
    if backend == "cupy":
        _check_cupy_options(kernels, threads, bucket, ranks)
    _check_numbers(threads, memory, tiling)
    if recompute is None:
        recompute = "attention" if backend in _GPU else "masks"
    if recompute not in LEVELS:
        raise ConfigError(f"recompute={recompute!r} is no level; choose from {', '.join(LEVELS)}")
    communicator = communicator_for(graph.mesh, ranks, algorithm, backend)
    fetch = [fetch] if isinstance(fetch, str) else fetch
    graph = unfuse(verify(graph))
    # Sizes are checked against the whole graph: what is fetched does not change which dims there are.
    complete = bind_sizes(graph, sizes)
    if communicator.meets_others:
        options = {
            "backend": backend,
            "kernels": kernels,
            "precision": precision,
            "fetch": fetch,
            "recompute": recompute,
            "memory": memory,
            "donate": donate,
            "without": sorted(without),
            "bucket": bucket,
        }
        _agree(communicator, graph, complete, options, threads)
    pruned = dce(graph, fetch)
    known = {name: complete[name] for name in dim_names([pruned.dims]) if name in complete}
    if backend == "reference":
        if check or tiling is not None:
            raise ConfigError('check and tiling are for programs; backend="reference" interprets the graph as it is')
        interpreted = plan(recompute_pass(pruned, recompute), known)
        if memory is None:
            require_room(interpreted, len(communicator.ranks), stored=True)
        return Executable(interpreted, algorithm, graph, communicator)
    make = _cupy_maker(precision) if backend == "cupy" else _numpy_maker(kernels, threads)
    reference = plan(pruned, known)
    # A GPU has memory of its own, and says itself when that does not suffice.
    limited = memory is None and backend not in _GPU
    if limited:
        require_room(reference, len(communicator.ranks), stored=False)

    def compiled(level: str) -> CompiledExecutable:
        from graphir.passes import run_pipeline

        return make(
            reference,
            run_pipeline(pruned, level, without, on_gpu=backend in _GPU),
            donate=donate,
            share_replicas=share_replicas,
            algorithm=algorithm,
            source=graph,
            communicator=communicator,
            bucket=LIMIT if bucket is None else bucket,
            check=CHECK if check is None else check,
            tiling=tiling,
            limited=limited,
        )

    if memory is None:
        return compiled(recompute)
    for level in LEVELS[LEVELS.index(recompute) :]:
        executable = compiled(level)
        if executable.memory.bytes <= memory:
            return executable
    raise ConfigError(f"{graph.name} does not fit into {memory / 1e6:.1f} MB:\n{executable.memory}")


def _agree(
    communicator: Communicator,
    graph: Graph,
    sizes: Mapping[str, int],
    options: Mapping[str, Any],
    threads: int | None,
) -> None:
    """AgreementError unless all ranks compile the same, for the same sizes and with the same options."""
    from graphir.backends.communicator import Terms, require_agreement
    from graphir.backends.machine import Machine
    from graphir.text import fingerprint, to_text

    told = {name: "not given" if value is None else str(value) for name, value in {**sizes, **options}.items()}
    terms = Terms(
        f"gi.compile(graph {graph.name})",
        {**told, "the graph": fingerprint(graph)},
        Machine.of(options["backend"], threads, options["kernels"]),
        {"the graph": lambda: to_text(graph, meta=False)},
    )
    communicator.differences = require_agreement(communicator, terms)


def _check_numbers(threads: Any, memory: Any, tiling: Any) -> None:
    """ConfigError for what is no number of threads, no number of bytes, no tiling."""
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise ConfigError(f"threads={threads!r} is no number of threads; give 1 or more, or leave it out")
    if memory is not None and not (isinstance(memory, int | float) and memory > 0):
        raise ConfigError(f"memory={memory!r} is no number of bytes; give what a rank may need, or leave it out")
    if tiling is not None and not hasattr(tiling, "cut"):
        raise ConfigError(f"tiling={tiling!r} is no Tiling; see graphir.backends.compiled.tiles")


def _check_cupy_options(kernels: str | None, threads: int | None, bucket: int | None, ranks: str) -> None:
    """ConfigError for what a GPU has no use for."""
    if kernels is not None:
        raise ConfigError(f'kernels={kernels!r} is for backend="numpy"; "cupy" has kernels of its own')
    if threads is not None:
        raise ConfigError(f'threads={threads} is for backend="numpy"; "cupy" works on all of a GPU at once')
    if bucket is not None and ranks != "nccl":
        raise ConfigError(
            f'bucket={bucket} is for gradients that travel between processes, ranks="nccl", not {ranks!r}'
        )


def _numpy_maker(kernels: str | None, threads: int | None) -> Callable[..., CompiledExecutable]:
    from graphir.backends.numpy import NumpyExecutable

    if kernels == "numba":
        from graphir.backends.numpy.fast import Kernels

        return partial(NumpyExecutable, threads=threads, kernels=Kernels())
    return partial(NumpyExecutable, threads=threads)


def _cupy_maker(precision: str) -> Callable[..., CompiledExecutable]:
    from graphir.backends.cupy import CupyExecutable

    return partial(CupyExecutable, tf32=precision == TF32)


def initialize(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """The first content of every parameter and state, by name: arrays as each one's `init` says, keyed by `seed`."""
    from graphir.backends import initialize

    return dict(initialize(graph, sizes, seed))
