"""The conformance suite on real ranks, on 2, 4 and 6 processes."""

from __future__ import annotations

import json

import pytest

from graphir.backends.communicator.mpi import fitting_meshes
from graphir.ir.layout import Mesh
from graphir.launch import Launch, find_launch
from tests.support.mpi import launch, needs_mpi


@pytest.mark.slow
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4, 6])
def test_conformance(ranks: int) -> None:
    done = launch(ranks, "-m", "tests.support.conformance", timeout=300)
    assert done.returncode == 0, done.stderr
    failures: dict[str, str] = json.loads(done.stdout)
    assert not failures, "\n\n".join(f"{name}: {failure}" for name, failure in failures.items())


# -- how a process was started -----------------------------------------------------------------------------


def test_a_process_that_was_started_alone() -> None:
    assert find_launch({"PATH": "/bin"}) is None


def test_what_launchers_say() -> None:
    assert find_launch({"PMI_SIZE": "6", "PMI_RANK": "2", "MPI_LOCALNRANKS": "3"}) == Launch(6, 2, 3, 2)
    assert find_launch({"PMI_SIZE": "6", "PMI_RANK": "2"}) == Launch(6, 2, 6, 2)
    said = {"SIZE": "6", "RANK": "4", "LOCAL_SIZE": "3"}
    found = find_launch({f"OMPI_COMM_WORLD_{name}": number for name, number in said.items()})
    assert found == Launch(6, 4, 3, 1)


def test_ranks_share_the_processors_of_their_machine() -> None:
    assert [Launch(6, 0, local).share(8) for local in (1, 3, 6, 16)] == [8, 2, 1, 1]


@pytest.mark.parametrize(
    ("mesh", "processes", "text"),
    [
        (Mesh(dp=2, tp=3), 4, "tp=4 or dp=2, tp=2 or dp=4"),
        (Mesh(tp=3), 6, "tp=6"),
        (Mesh(), 3, "dp=3"),
        (Mesh(dp=2, tp=3), 1, "one rank"),
    ],
)
def test_meshes_that_fit_so_many_processes(mesh: Mesh, processes: int, text: str) -> None:
    assert fitting_meshes(mesh, processes) == text
