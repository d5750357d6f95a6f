"""Graphs on real ranks: the same numbers as on simulated ones, what a rank takes and returns, and `graphir check`.

Sums of real ranks are added up in MPI's order. In float64, values agree with simulated ranks' to 1e-11 of their largest
element, several hundred operations after the first sum; what is dropped, and what is computed twice, agrees bit for
bit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import graphir as gi
from graphir.backends.communicator import communicator_for
from graphir.backends.communicator.mpi_peers import is_another, load_mpi
from graphir.errors import ConfigError, MissingDependencyError
from graphir.extras import install
from graphir.ir.layout import Mesh
from tests.support.mpi import OPEN_MPIS_LAUNCHER, environment, launch, needs_mpi
from tests.support.paths import ROOT

PROGRAMS = [
    ("dp=2", "zero1", "numpy", 1 << 20),
    # Every plan is compared with one rank below, on four processes.
    pytest.param("tp=2", "sequence", "reference", 0, marks=pytest.mark.slow),
    pytest.param("dp=2", "data,zero3", "numpy", 0, marks=pytest.mark.slow),
    pytest.param("dp=2,cp=2", "data+context", "numpy", 1000, marks=pytest.mark.slow),
    pytest.param("dp=2,tp=3", "sequence+zero1,zero2+vocabulary", "numpy", 1000, marks=pytest.mark.slow),
]


@needs_mpi
@pytest.mark.parametrize(("axes", "plans", "backend", "bucket"), PROGRAMS)
def test_real_ranks_compute_what_simulated_ones_do(axes: str, plans: str, backend: str, bucket: int) -> None:
    ranks = 1
    for each in axes.split(","):
        ranks *= int(each.partition("=")[2])
    done = launch(ranks, "-m", "tests.support.mpi_program", axes, plans, backend, bucket)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alike\n", "")


# -- what a rank takes and returns -------------------------------------------------------------------------

TAKES_AND_RETURNS = """
import json, sys
import numpy as np
import graphir as gi
from graphir.errors import InputError

B, D, F = gi.dims("B D F")
builder = gi.Builder("product", mesh=gi.Mesh(tp=2))
X = builder.input("X", (B, D))
W = builder.parameter("W", (D, F), layout=gi.Layout(((), ("tp",))))
Y = gi.matmul(X, W, name="Y")
graph = builder.build(Y, X)
told = {}
for backend in ("reference", "numpy"):
    run = gi.compile(graph, {"B": 2, "D": 3, "F": 4}, backend=backend, ranks="mpi")
    rank = run.communicator.ranks[0]
    X, W = np.arange(6, dtype="float32").reshape(2, 3), np.arange(12, dtype="float32").reshape(3, 4)
    for weights in (W, W[:, 2 * rank : 2 * rank + 2]):
        out = run({"X": X, "W": weights})
        assert np.array_equal(out.gather("Y"), X @ W)
        assert np.array_equal(out.block("Y"), (X @ W)[:, 2 * rank : 2 * rank + 2])
        assert np.array_equal(out["X"], X) and np.array_equal(out.gather("X"), X)
    for name, give in (("split", lambda: out["Y"]), ("shape", lambda: run({"X": X, "W": W[:, :3]}))):
        try:
            give()
        except InputError as error:
            told[name] = str(error)
if rank == 0:
    json.dump(told, sys.stdout)
"""


@pytest.mark.slow
@needs_mpi
def test_a_rank_takes_the_whole_or_its_block_and_keeps_blocks() -> None:
    done = launch(2, "-c", TAKES_AND_RETURNS)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "split": "Y float32[B, F|tp] is split, and this process holds one rank's block of it: run.block('Y') is that, "
        "and run.gather('Y'), called by all ranks, the whole",
        "shape": "W must be [D, F] = [3, 4], or this rank's block [3, 2], not [3, 3]",
    }


def test_simulated_ranks_return_the_whole_whatever_is_asked() -> None:
    program = TAKES_AND_RETURNS.partition("told = {}")[0]
    space: dict[str, object] = {}
    exec(program, space)
    run = gi.compile(space["graph"], {"B": 2, "D": 3, "F": 4})  # type: ignore[arg-type]
    import numpy as np

    X, W = np.arange(6, dtype="float32").reshape(2, 3), np.arange(12, dtype="float32").reshape(3, 4)
    out = run({"X": X, "W": W})
    for found in (out["Y"], out.block("Y"), out.gather("Y")):
        np.testing.assert_array_equal(found, X @ W)


# -- what is refused ---------------------------------------------------------------------------------------


def test_an_unknown_kind_of_ranks() -> None:
    with pytest.raises(ConfigError, match=r"^ranks='gloo' is unknown; choose from simulated, mpi, nccl$"):
        communicator_for(Mesh(tp=2), "gloo")


@pytest.mark.slow
@needs_mpi
def test_a_program_that_no_launcher_started() -> None:
    program = "import graphir as gi\nfrom graphir.backends.communicator import communicator_for\n"
    program += "communicator_for(gi.Mesh(dp=2, tp=3), 'mpi')"
    alone = {name: text for name, text in environment().items() if not name.startswith(("PMI", "MPI", "OMPI"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=alone, capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 1
    text = "ConfigError: dp=2, tp=3 needs 6 ranks, but one process was started; start it by mpiexec -n 6, or choose one"
    assert text in done.stderr


def test_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(
        MissingDependencyError, match=f"^ranks='mpi' needs mpi4py and an MPI .*{re.escape(install('mpi'))}"
    ):
        load_mpi()


def as_rank(rank: int, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`graphir check` after a program, as one of two processes of a launcher that is not that of mpi4py's MPI."""
    ours = "PMI" if OPEN_MPIS_LAUNCHER else "OMPI_COMM_WORLD"
    told = {**environment(), f"{ours}_SIZE": "2", f"{ours}_RANK": str(rank), **variables}
    program += "\nfrom graphir.cli import main\nmain(['check', '--tp', '2', '--layers', '1'])"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=300, cwd=ROOT)


UNCHECKED = "from graphir.backends.communicator import mpi_peers\nmpi_peers.is_another = lambda *_: False"


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("program", ["", UNCHECKED])
def test_the_launcher_of_another_mpi_is_told_in_a_sentence(program: str) -> None:
    """Not two runs of one rank each; also where it is found out only by what MPI says of their number."""
    done = as_rank(0, program)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: 2 processes were started, but for the MPI that mpi4py has found, (MPICH|Open MPI) v?\d\S+, each of "
        r"them is alone: they were started by the launcher of another MPI; use the mpiexec of .*, or an mpi4py for "
        r"the other\n",
        done.stderr,
    )
    done = as_rank(1, program)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_which_launchers_belong_to_another_mpi() -> None:
    assert is_another("Open MPI", "MPICH Version:      5.0.2\nMPICH configure:    --with-pm=hydra")
    assert not is_another("Open MPI", "MPICH Version:      4.2.0\nMPICH configure:    --with-pmix=/usr")
    assert not is_another("Open MPI", "Open MPI v4.1.4, package: Debian OpenMPI")
    assert not is_another(
        "PMI", "Open MPI v4.1.4"
    )  # Slurm's launcher speaks PMI, too: that MPI tells how many it found


@pytest.mark.slow
@needs_mpi
def test_mpi4py_without_an_mpi_is_told_in_a_sentence() -> None:
    done = as_rank(0, "", MPI4PY_LIBMPI="/nowhere/libmpi.so")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: ranks='mpi' needs mpi4py and an MPI to run on (cannot load MPI library); pip "
    )
    assert done.stderr.count("\n") == 1


def test_graphir_loads_no_mpi() -> None:
    program = "import sys, graphir, graphir.backends.communicator, graphir.cli.check; print('mpi4py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout == "False\n"


# -- graphir check -----------------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.slow
def test_every_plan_on_four_processes_agrees_with_one_rank() -> None:
    done = launch(
        4, "-m", "graphir", "check", "--plan", "all", "--dp", "2", "--tp", "2", "--layers", "1", "--json", timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["ok"]
    assert told["skipped"] == []
    titles = [report["title"] for report in told["reports"]]
    assert len(titles) >= 16
    assert {"data on dp=2, tp=2", "megatron+data on dp=2, tp=2", "megatron+zero3 on dp=2, tp=2"} <= set(titles)
    for report in told["reports"]:
        assert len(report["values"]) > 200, report["title"]
        assert all(each["replicas"] for each in report["values"]), report["title"]
