"""The backends that there are: what each is called, which options it has, what it can do, and how it is made to run.

`gi.compile`, the command line, configurations and checks ask here, and none of them knows a backend by name. An entry
loads nothing of its backend before something is compiled for it. Another backend is another entry of `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from graphir.errors import ConfigError
from graphir.options import Option

if TYPE_CHECKING:
    from graphir.backends.communicator import Communicator
    from graphir.backends.executable import Executable
    from graphir.backends.machine import Machine
    from graphir.backends.plan import ExecutionPlan
    from graphir.ir.graph import Graph

#: What ranks are where one process runs them all.
SIMULATED = "simulated"


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


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend's entry.

    name          what `gi.compile(…, backend=…)` calls it
    help          what computes, as the command line's help says it
    make          makes an executable of a job
    machine       what it computes with here, with these options of it
    options       its own options of `gi.compile`
    ranks         what the ranks of a mesh may be: one process's, and processes of their own
    passes        the optimising passes that it takes; all of them unless it says so
    recompute     the level of recomputation, unless somebody asks for another
    programs      whether it runs programs, whose memory is planned and which can be proved
    on_device     whether it computes on a device, with memory of its own and arithmetic to spare
    library       the package that the type of its arrays is of
    array_module  the module by which they are computed with, `xp`; DeviceError where there is no device
    row_multiple  how many numbers the rows of a vocabulary's tensors should be a multiple of
    """

    name: str
    help: str
    make: Callable[[Job], Executable]
    machine: Callable[[Mapping[str, Any]], Machine]
    options: Mapping[str, Option]
    ranks: tuple[str, ...] = (SIMULATED, "mpi")
    passes: Collection[str] | None = None
    recompute: str = "masks"
    programs: bool = True
    on_device: bool = False
    library: str = "numpy"
    array_module: Callable[[], Any]
    row_multiple: int = 1

    def chosen(self, given: Mapping[str, Any], ranks: str = SIMULATED) -> dict[str, Any]:
        """Every option of the backend, as it is given or by default; one that is None is not given.

        Errors: ConfigError, with who has it, for an option of another backend or of none; for what one cannot be; and
        for one that is for ranks of another kind.
        """
        told = {name: value for name, value in given.items() if value is not None}
        for name in told:
            if name not in self.options:
                raise ConfigError(self._foreign(name))
        if told.get("bucket") is not None and ranks == SIMULATED:
            apart = " or ".join(repr(each) for each in self.ranks if each != SIMULATED)
            raise ConfigError(
                f"bucket={told['bucket']} is for gradients that travel between processes, ranks={apart}, not {ranks!r}"
            )
        return {name: each.check(name, told.get(name, each.default)) for name, each in self.options.items()}

    def require_ranks(self, ranks: str) -> None:
        """ConfigError, with who can, unless the backend's ranks can be so."""
        if ranks not in self.ranks:
            others = ", ".join(f"backend={each.name!r}" for each in BACKENDS.values() if ranks in each.ranks)
            raise ConfigError(
                f"backend={self.name!r} has no ranks={ranks!r}: choose from {', '.join(self.ranks)}, or use {others}"
            )

    def _foreign(self, name: str) -> str:
        """Why the backend does not take an option of this name."""
        has = f"which has {', '.join(self.options)}"
        others = [each.name for each in BACKENDS.values() if name in each.options]
        if not others:
            return f"unknown option {name}: none of gi.compile, and none of backend {self.name!r}, {has}"
        return f"{name} is no option of backend {self.name!r}, {has}; it is one of {', '.join(map(repr, others))}"


def find_backend(name: str) -> Backend:
    """The entry of that name; ConfigError, with those that there are, for any other."""
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r} is unknown; choose from {', '.join(BACKENDS)}")
    return BACKENDS[name]


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
    from graphir.backends.plan import plan_complete

    interpreted = plan_complete(job.optimised, job.plan.sizes)
    if job.limited:
        require_room(interpreted, len(job.communicator.ranks), stored=True)
    return interpreted.executable(job.options["algorithm"], job.source, job.communicator)


def _numpy_module() -> Any:
    import numpy

    return numpy


def _cupy_module() -> Any:
    from graphir.backends.cupy.device import require_device

    return require_device()


def _processor(options: Mapping[str, Any]) -> Machine:
    from graphir.backends.machine import Machine
    from graphir.backends.numpy.threads import default_threads

    packages = ("numba",) if options.get("kernels") == "numba" else ()
    return Machine.of_processor(options.get("threads") or default_threads(), *packages)


def _device(options: Mapping[str, Any]) -> Machine:
    from graphir.backends.cupy.device import device_properties
    from graphir.backends.machine import Machine, identity, versions

    device = device_properties()
    software = {"CuPy": device.cupy, "CUDA": str(device.runtime)}
    return Machine(f"{identity()} {device}", versions() | software, {"GPU": device.name})


# -- the entries ------------------------------------------------------------------------------------------

#: All backends, by name; the first is the usual one.
BACKENDS = {
    each.name: each
    for each in (
        Backend(
            name="numpy",
            help="the processor, by NumPy",
            make=_make_numpy,
            machine=_processor,
            options=_NUMPY,
            array_module=_numpy_module,
        ),
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
        ),
        Backend(
            name="reference",
            help="the processor, node by node, by the operators' own kernels",
            make=_make_reference,
            machine=_processor,
            options={"algorithm": _ALGORITHM},
            passes=("recompute",),
            programs=False,
            array_module=_numpy_module,
        ),
    )
}
