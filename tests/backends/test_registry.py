"""The registry of backends: who asks it, what it refuses, and that one entry is all that another backend takes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import click
import numpy as np
import pytest

import graphir as gi
from graphir.backends import Executable, registry
from graphir.backends.entries import Job
from graphir.backends.registry import BACKENDS, SIMULATED, Backend, find_backend
from graphir.cli.options import backend_option, backend_options
from graphir.errors import ConfigError
from graphir.launch import RANKS
from graphir.options import Option
from graphir.passes import LEVELS, PIPELINE
from tests.support.paths import ROOT

B = gi.dim("B")


def doubled() -> gi.Graph:
    block = gi.Builder("doubled")
    return block.build(gi.scale(block.input("X", (B,)), by=2.0, name="Y"))


# -- what entries say --------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", BACKENDS.values(), ids=list(BACKENDS))
def test_an_entry_speaks_of_what_there_is(entry: Backend) -> None:
    assert BACKENDS[entry.name] is entry
    assert set(entry.ranks) <= set(RANKS)
    assert entry.ranks[0] == SIMULATED
    assert entry.recompute in LEVELS
    assert set(entry.passes or ()) <= set(PIPELINE)
    assert not entry.options.keys() & inspect.signature(gi.compile).parameters.keys()
    assert all(option.help.partition("  [")[0].endswith(".") for option in entry.options.values())
    assert entry.chosen({}) == {name: option.default for name, option in entry.options.items()}


def test_nobody_but_its_entry_and_its_own_code_names_a_backend() -> None:
    """The usual one is a default, and may be named; the language's docstrings may speak of all."""
    others = [name for name in BACKENDS if name not in ("numpy", "reference")]
    named = re.compile(rf"[=(\[,!] *[\"'](?:{'|'.join(others)})[\"']")
    files = [file for folder in ("graphir", "passes", "backends") for file in (ROOT / folder).rglob("*.py")]
    own = {ROOT / "backends/entries.py", ROOT / "backends/device.py"}
    own |= {ROOT / "graphir/formula/reads.py", ROOT / "graphir/extras.py"}  # which name packages, and what brings them
    own |= {*(file for name in others for file in (ROOT / "backends" / name).rglob("*"))}
    found = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if file not in own and named.search(re.sub(r'""".*?"""', "", file.read_text(encoding="utf-8"), flags=re.DOTALL))
    }
    assert not found


def test_an_entry_loads_nothing_of_its_backend() -> None:
    program = (
        "import sys\nfrom graphir.backends.registry import BACKENDS\n"
        "print([name for name in sys.modules if name.startswith(tuple(f'graphir.backends.{each}' for each in BACKENDS))"
        " or name in ('cupy', 'numba')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("reference", {"threads": 2}, "threads is no option of backend 'reference', which has algorithm; it is one of"),
        ("numpy", {"precision": "float32"}, "precision is no option of backend 'numpy', which has threads, kernels,"),
        ("numpy", {"wings": 2}, "unknown option wings: none of gi.compile, and none of backend 'numpy', which has"),
        ("numpy", {"bucket": 0}, "bucket=0 is for gradients that travel between processes, ranks='mpi', not 'simul"),
        ("numpy", {"algorithm": "tree"}, "algorithm 'tree' is none of ring, direct, naive"),
        ("numpy", {"share_replicas": 1}, "share_replicas must be bool, not 1"),
        ("reference", {"check": True}, "check is for programs that graphir writes; backend='reference' runs none of"),
        (
            "numpy",
            {"ranks": "nccl"},
            "backend='numpy' has no ranks='nccl': choose from simulated, mpi, or use backend='",
        ),
        ("abacus", {}, "backend 'abacus' is unknown; choose from numpy, cupy, reference, xla"),
    ],
)
def test_what_a_backend_does_not_take(backend: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        gi.compile(doubled(), {"B": 2}, backend=backend, **options)


def test_what_is_none_is_not_given() -> None:
    run = gi.compile(doubled(), {"B": 2}, backend="reference", threads=None, kernels=None, precision=None)
    assert list(run({"X": np.ones(2, np.float32)})["Y"]) == [2, 2]


# -- another backend ---------------------------------------------------------------------------------------


class Echo(Executable):
    """A backend that interprets, and says what it was asked."""

    job: Job


def make_echo(job: Job) -> Executable:
    made = Echo(job.plan, job.options["algorithm"], job.source, job.communicator)
    made.job = job
    return made


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """An entry of a backend of one's own, as long as a test runs."""
    usual = find_backend("numpy")
    volume = Option(default=3, help="How loud it is.", kind=int, least=1)
    options = {"algorithm": usual.options["algorithm"], "volume": volume}
    entry = replace(
        find_backend("reference"),
        name="echo",
        help="an echo",
        make=make_echo,
        options=options,
        passes=None,
        row_multiple=7,
    )
    monkeypatch.setitem(BACKENDS, "echo", entry)
    return entry


def test_one_entry_makes_a_backend(echo: Backend) -> None:
    run = gi.compile(doubled(), {"B": 2}, backend="echo", volume=5, donate=True)
    assert isinstance(run, Echo)
    assert run.job.options == {"algorithm": "ring", "volume": 5}
    assert (run.job.donate, run.job.check, run.job.limited) == (True, False, True)
    assert list(run({"X": np.ones(2, np.float32)})["Y"]) == [2, 2]
    with pytest.raises(ConfigError, match=r"^volume must be at least 1, not 0$"):
        gi.compile(doubled(), {"B": 2}, backend="echo", volume=0)
    with pytest.raises(ConfigError, match=r"^volume is no option of backend 'numpy', .*; it is one of 'echo'$"):
        gi.compile(doubled(), {"B": 2}, volume=2)


def test_passes_that_a_backend_does_not_take_are_left_out(echo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphir.passes import autodiff, dce, recompute

    step = autodiff(gi.models.transformer(1, decode=None))
    sizes = {"B": 2, "S": 4, "D": 8, "N_H": 2, "D_ff": 16, "V": 16}
    fused = gi.compile(step, sizes, backend="echo").job.optimised  # type: ignore[attr-defined]
    assert any(node.operator.key.startswith("fused") for node in fused.nodes)
    monkeypatch.setitem(BACKENDS, "echo", replace(echo, passes=("recompute",)))
    plain = gi.compile(step, sizes, backend="echo", recompute="full").job.optimised  # type: ignore[attr-defined]
    assert plain == recompute(dce(step), "full")


def test_configurations_and_the_command_line_know_it(echo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphir.training import TrainConfig

    assert TrainConfig().multiple_on("echo") == 7
    monkeypatch.setitem(BACKENDS, "echo", replace(echo, compiles=True))

    @click.command()
    @backend_option()
    @backend_options("volume")
    def shout(backend: str, volume: int | None) -> None:
        click.echo(f"{backend} {volume}")

    backend, volume = shout.params
    assert isinstance(backend.type, click.ParamType)
    assert list(getattr(backend.type, "choices", ())) == ["numpy", "cupy", "xla", "echo"]
    assert getattr(backend, "help", "").endswith(", or an echo.")
    assert (volume.default, getattr(volume, "help", "")) == (None, "How loud it is.  [default: 3]")


def test_arrays_of_a_device_are_found_by_their_package(echo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphir.backends.arrays import holder_of, is_on_device

    array = type("ndarray", (), {"__module__": "tealib.arrays", "dtype": "float32"})()
    assert holder_of(array) is None
    held = replace(echo, on_device=True, library="tealib")
    monkeypatch.setitem(registry.BACKENDS, "echo", held)
    assert holder_of(array) is held
    assert is_on_device(array)
    assert not is_on_device(np.ones(2))
    assert not is_on_device(type("ndarray", (), {"__module__": "tealib.arrays"})())
