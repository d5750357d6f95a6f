"""graphir's own backends: the options, and what loads each when something is to run on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from graphir.backends.registry import SIMULATED, Backend, register
from graphir.options import Option

if TYPE_CHECKING:
    from graphir.backends.communicator import Communicator
    from graphir.backends.executable import Executable
    from graphir.backends.machine import Machine
    from graphir.backends.plan import ExecutionPlan
    from graphir.ir.graph import Graph


@dataclass(frozen=True)
class Job:
    """What a backend makes an executable of.

    plan          what is fetched, planned as it was written: what runs is checked by it
    optimised     the same graph through the passes that the backend takes
    source        the whole graph, as it was handed in
    communicator  what moves blocks between its ranks
    options       every option of the backend
    donate        whether arguments that the graph updates may be written over
    check         whether the program has to be proved
    limited       whether what this machine has no memory for is refused
    """

    plan: ExecutionPlan
    optimised: Graph
    source: Graph
    communicator: Communicator
    options: Mapping[str, Any]
    donate: bool = False
    check: bool = False
    limited: bool = False


# -- options ----------------------------------------------------------------------------------------------


@runtime_checkable
class Tiling(Protocol):
    """How tasks are cut: `graphir.backends.compiled.tiles.Tiling`, which help need not load."""

    cut: Any


_ALGORITHM = Option(
    default="ring",
    help="How the simulated ranks of a sharded graph reduce and gather.",
    kind=str,
    choices=("ring", "direct", "naive"),
)

#: Those of all compiled engines.
_ENGINE = {
    "algorithm": _ALGORITHM,
    "share_replicas": Option(
        default=False,
        help="Whether what simulated ranks would all compute alike is computed by one of them for all: faster, in more "
        "memory, and blind to a replica that goes astray.",
        kind=bool,
    ),
    "bucket": Option(
        default=None,
        help="Bytes of gradients that travel together between processes; with 0, each by itself, and nothing else is "
        "done until it has arrived.  [default: 1 MiB]",
        kind=int,
        least=0,
    ),
    "tiling": Option(
        default=None,
        help="How tasks are cut into tiles and shared by threads: for tests, and to tune.  [default: the backend's]",
        kind=Tiling,
        free=True,
    ),
}

_NUMPY = {
    "threads": Option(
        default=None,
        help="How many threads work; results depend on their number, for sums are added up in another order, and on "
        "nothing else.  [default: one for each processor]",
        kind=int,
        least=1,
        free=True,
    ),
    "kernels": Option(
        default="numpy",
        help="What computes between products: NumPy, or fused kernels by Numba, each a pass over memory where NumPy "
        "makes several; the first time that it is met, a kernel is compiled for about a second.",
        kind=str,
        choices=("numpy", "numba"),
    ),
    **_ENGINE,
}

_CUPY = {
    "precision": Option(
        default="float32",
        help="Of products of float32: float32, or tf32: factors are rounded to 10 bits after the point, which tensor "
        "cores multiply several times faster; sums stay float32.",
        kind=str,
        choices=("float32", "tf32"),
    ),
    **_ENGINE,
}


# -- what loads a backend when it is asked for ----------------------------------------------------------------


def _engine_keywords(job: Job) -> dict[str, Any]:
    """What all compiled engines take alike."""
    from graphir.backends.buckets import LIMIT

    bucket = job.options["bucket"]
    return {
        **{name: job.options[name] for name in ("algorithm", "share_replicas", "tiling")},
        "bucket": LIMIT if bucket is None else bucket,
        "source": job.source,
        "communicator": job.communicator,
        "donate": job.donate,
        "check": job.check,
        "limited": job.limited,
    }


def _make_numpy(job: Job) -> Executable:
    from graphir.backends.numpy import NumpyExecutable

    kernels = None
    if job.options["kernels"] == "numba":
        from graphir.backends.numpy.fast import Kernels

        kernels = Kernels()
    threads = job.options["threads"]
    return NumpyExecutable(job.plan, job.optimised, threads=threads, kernels=kernels, **_engine_keywords(job))


def _make_cupy(job: Job) -> Executable:
    from graphir.backends.cupy import CupyExecutable

    return CupyExecutable(job.plan, job.optimised, tf32=job.options["precision"] == "tf32", **_engine_keywords(job))


def _make_reference(job: Job) -> Executable:
    from graphir.backends.capacity import require_room
    from graphir.backends.executable import Executable
    from graphir.backends.plan import plan_complete

    interpreted = plan_complete(job.optimised, job.plan.sizes)
    if job.limited:
        require_room(interpreted, len(job.communicator.ranks), stored=True)
    return Executable(interpreted, job.options["algorithm"], job.source, job.communicator)


def _make_xla(job: Job) -> Executable:
    from graphir.backends.plan import plan_complete
    from graphir.backends.xla import XlaExecutable

    optimised = plan_complete(job.optimised, job.plan.sizes)
    return XlaExecutable(job.plan, optimised, job.source, job.communicator, job.donate)


def _numpy_module() -> Any:
    import numpy

    return numpy


def _cupy_module() -> Any:
    from graphir.backends.device import require_device

    return require_device()


def _processor(options: Mapping[str, Any]) -> Machine:
    from graphir.backends.machine import Machine, default_threads

    packages = ("numba",) if options.get("kernels") == "numba" else ()
    return Machine.of_processor(options.get("threads") or default_threads(), *packages)


def _device(options: Mapping[str, Any]) -> Machine:
    from graphir.backends.device import device_properties
    from graphir.backends.machine import Machine, identity, versions

    device = device_properties()
    software = {"CuPy": device.cupy, "CUDA": str(device.runtime)}
    return Machine(f"{identity()} {device}", versions() | software, {"GPU": device.name})


def _xla_machine(options: Mapping[str, Any]) -> Machine:
    from graphir.backends.machine import Machine, identity, versions
    from graphir.backends.xla.library import load_jax

    device = load_jax().devices()[0]
    return Machine(identity(), versions("jax", "jaxlib"), {"device": device.device_kind})


# -- the entries ------------------------------------------------------------------------------------------

NUMPY = register(
    Backend(
        name="numpy",
        help="the processor, by NumPy",
        make=_make_numpy,
        machine=_processor,
        options=_NUMPY,
        array_module=_numpy_module,
    )
)
CUPY = register(
    Backend(
        name="cupy",
        help="an NVIDIA GPU, by CuPy",
        make=_make_cupy,
        machine=_device,
        options=_CUPY,
        ranks=(SIMULATED, "nccl"),
        # Its kernels make attention's scores, and its gradient's, without storing them.
        recompute="attention",
        on_device=True,
        library="cupy",
        array_module=_cupy_module,
        # Tensor cores want rows that start at multiples of 16 bytes; 64 numbers of 16 bits are a line of the cache.
        row_multiple=64,
    )
)
REFERENCE = register(
    Backend(
        name="reference",
        help="the processor, node by node, by the operators' own kernels",
        make=_make_reference,
        machine=_processor,
        options={"algorithm": _ALGORITHM},
        passes=("recompute",),
        compiles=False,
        programs=False,
        array_module=_numpy_module,
    )
)
XLA = register(
    Backend(
        name="xla",
        help="whatever JAX computes on, by XLA: an engine that is not graphir's",
        make=_make_xla,
        machine=_xla_machine,
        options={},
        ranks=(SIMULATED,),
        passes=("simplify", "recompute", "cse"),
        # XLA decides by itself what it stores.
        recompute="nothing",
        programs=False,
        # NumPy's functions take JAX's arrays as they are.
        array_module=_numpy_module,
    )
)
