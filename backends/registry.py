"""The backends that there are: what each is called, which options it has, what it can do, and how it is made to run.

`gi.compile`, the command line, configurations and checks ask here, and none of them knows a backend by name. Entries
join by `register`: graphir's own stand in `entries.py`. An entry loads nothing of its backend before something is
compiled for it, so that this module knows nothing of what backends are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from graphir.errors import ConfigError
from graphir.options import Option

#: What ranks are where one process runs them all.
SIMULATED = "simulated"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend's entry.

    name          what `gi.compile(…, backend=…)` calls it
    help          what computes, as the command line's help says it
    make          makes an `Executable` of an `entries.Job`
    machine       the `Machine` that it computes with here, with these options of it
    options       its own options of `gi.compile`
    ranks         what the ranks of a mesh may be: one process's, and processes of their own
    passes        the optimising passes that it takes; all of them unless it says so
    recompute     the level of recomputation, unless somebody asks for another
    compiles      whether it makes something of a graph that runs, whose memory is planned, rather than interpret it
    programs      whether that are programs of graphir's own, which can be proved
    on_device     whether it computes on a device, with memory of its own and arithmetic to spare
    library       the package that the type of its arrays is of
    array_module  the module by which they are computed with, `xp`; DeviceError where there is no device
    row_multiple  how many numbers the rows of a vocabulary's tensors should be a multiple of
    """

    name: str
    help: str
    make: Callable[[Any], Any]
    machine: Callable[[Mapping[str, Any]], Any]
    options: Mapping[str, Option]
    ranks: tuple[str, ...] = (SIMULATED, "mpi")
    passes: Collection[str] | None = None
    recompute: str = "masks"
    compiles: bool = True
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
        has = f"which has {', '.join(self.options) or 'none'}"
        others = [each.name for each in BACKENDS.values() if name in each.options]
        if not others:
            return f"unknown option {name}: none of gi.compile, and none of backend {self.name!r}, {has}"
        return f"{name} is no option of backend {self.name!r}, {has}; it is one of {', '.join(map(repr, others))}"


def find_backend(name: str) -> Backend:
    """The entry of that name; ConfigError, with those that there are, for any other."""
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r} is unknown; choose from {', '.join(BACKENDS)}")
    return BACKENDS[name]


#: All backends, by name; the first is the usual one.
BACKENDS: dict[str, Backend] = {}


def register(entry: Backend) -> Backend:
    """Adds a backend; one of the same name takes the place of the other."""
    BACKENDS[entry.name] = entry
    return entry
