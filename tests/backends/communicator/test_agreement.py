"""Ranks that were not started alike are told who differs, and in what, before anything is computed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import graphir as gi
from graphir.backends.communicator import SimulatedCommunicator, Terms, require_agreement
from graphir.backends.machine import Machine
from graphir.backends.registry import find_backend
from graphir.cli.ranks import start_ranks
from graphir.errors import AgreementError, ConfigError
from graphir.ir.layout import Mesh
from graphir.text import fingerprint
from tests.support.mpi import launch, needs_mpi, words
from tests.support.paths import ROOT

MACHINE = Machine("here", {"graphir": "0.1.0", "NumPy": "2.4"}, {"BLAS": "openblas Haswell", "threads": "2"})
TERMS = Terms("graphir train", {"--steps": "8", "--seed": "0"}, MACHINE)


class Everybody(SimulatedCommunicator):
    """A communicator of one rank, which hears what all of them hand in."""

    def __init__(self, held: Sequence[Terms | None]) -> None:
        super().__init__(Mesh(dp=len(held)))
        texts = [each.texts["the graph"]() for each in held if each is not None and each.texts]
        terms = [b"7" if each is None else each.pack() for each in held]
        self.rounds = [terms, [zlib.compress(text.encode()) for text in texts]]

    def share(self, data: bytes, purpose: str) -> list[bytes]:
        return self.rounds.pop(0)


def other(**common: str) -> Terms:
    return replace(TERMS, common={**TERMS.common, **common})


def told(*held: Terms | None) -> str:
    """What every one of the ranks is told."""
    assert held[0] is not None
    with pytest.raises(AgreementError) as error:
        require_agreement(Everybody(held), held[0])
    text = str(error.value)
    assert text.startswith("the ranks do not agree: ")
    assert text.endswith("; start all of them alike")
    return text.removeprefix("the ranks do not agree: ").removesuffix("; start all of them alike")


def test_who_agrees_is_told_nothing() -> None:
    assert require_agreement(Everybody([TERMS] * 6), TERMS) == ()


def test_who_differs_is_named_with_both_values() -> None:
    longer = other(**{"--steps": "9", "--seed": "4"})
    assert told(TERMS, TERMS, longer, TERMS) == (
        "--steps is 9 for rank 2 and 8 for all others; --seed is 4 for rank 2 and 0 for all others"
    )
    assert told(TERMS, other(**{"--steps": "9"})) == "--steps is 8 for rank 0 and 9 for rank 1"
    each = [other(**{"--seed": str(rank // 2)}) for rank in range(5)]
    assert told(*each) == "--seed is 2 for rank 4, 0 for ranks 0, 1 and 1 for all others"


def test_what_a_rank_lacks_is_nothing() -> None:
    assert told(TERMS, TERMS, other(**{"--more": "1"})) == "--more is 1 for rank 2 and nothing for all others"


def graphs(*texts: str) -> list[Terms]:
    """The terms of ranks that have graphs of these texts."""
    return [
        replace(TERMS, common={"the graph": str(len(text))}, texts={"the graph": lambda text=text: text})  # type: ignore[misc]
        for text in texts
    ]


def test_graphs_differ_where_they_first_do_however_they_are_spaced() -> None:
    usual = "graph mlp\nY = matmul(X, W)\n"
    wider = "graph mlp\n\nY  =  matmul(X, W)\nZ  =  add(Y, Y)\n"
    assert require_agreement(Everybody(graphs(usual, usual)), graphs(usual)[0]) == ()
    assert told(*graphs(usual, wider, usual)) == (
        "the graph, where it first differs, is Z = add(Y, Y) for rank 1 and nothing for all others"
    )


def test_versions_have_to_be_the_same_everywhere() -> None:
    old = replace(TERMS, machine=replace(MACHINE, place="there", versions={"graphir": "0.0.9", "NumPy": "2.4"}))
    assert told(TERMS, TERMS, old) == "graphir is 0.0.9 for rank 2 and 0.1.0 for all others"


def test_who_does_something_else_is_told_of_that_alone() -> None:
    assert told(TERMS, replace(other(**{"--steps": "1"}), occasion="gi.compile(graph mlp)"), TERMS) == (
        "what is done is gi.compile(graph mlp) for rank 1 and graphir train for all others"
    )
    assert told(TERMS, TERMS, None) == "what is done is something else for rank 2 and graphir train for all others"


def test_machines_may_differ_and_ranks_of_one_may_not() -> None:
    four = replace(MACHINE, traits={**MACHINE.traits, "threads": "4"})
    crowded = replace(TERMS, machine=four)
    assert told(TERMS, TERMS, crowded).startswith("threads on ")
    assert told(TERMS, TERMS, crowded).endswith(" is 4 for rank 2 and 2 for all others")
    elsewhere = replace(TERMS, machine=replace(four, place="there"))
    found = require_agreement(Everybody([TERMS, TERMS, elsewhere, elsewhere, elsewhere]), TERMS)
    assert found == ("threads is 2 for ranks 0, 1 and 4 for all others",)


def test_what_this_machine_computes_with_is_known() -> None:
    found = find_backend("numpy").machine({"threads": 3})
    assert found.traits["threads"] == "3"
    assert {"BLAS", "instruction set"} <= found.traits.keys()
    usual = find_backend("numpy").machine({"threads": None})
    assert usual == find_backend("reference").machine({})
    assert "numba" in find_backend("numpy").machine({"threads": None, "kernels": "numba"}).versions


# -- ranks that are processes ------------------------------------------------------------------------------

COMPILING = """
import sys
import graphir as gi
from graphir.backends.communicator.meeting import peers
from graphir.errors import AgreementError

rank = peers().rank
B, D, F = gi.dims("B D F")
builder = gi.Builder("product", mesh=gi.Mesh(tp=2))
X = builder.input("X", (B, D))
W = builder.parameter("W", (D, F), layout=gi.Layout(((), ("tp",))))
Y = gi.matmul(X, W, name="Y")
graph = builder.build(Y)
builder = gi.Builder("product", mesh=gi.Mesh(tp=2))
X = builder.input("X", (B, D))
W = builder.parameter("W", (D, F), layout=gi.Layout(((), ("tp",))))
another = builder.build(gi.scale(gi.matmul(X, W, name="Y"), by=2.0, name="Z"))
told = []
for backend in ("numpy", "reference"):
    for mine, sizes, options in (
        (another if rank else graph, {"B": 2, "D": 3, "F": 4}, {}),
        (graph, {"B": 2 + rank, "D": 3, "F": 4}, {}),
        (graph, {"B": 2, "D": 3, "F": 4}, {"recompute": "full" if rank else None}),
        (graph, {"B": 2, "D": 3, "F": 4}, {"threads": 1 + rank} if backend == "numpy" else {}),
        (graph, {"B": 2, "D": 3, "F": 4}, {}),
    ):
        try:
            gi.compile(mine, sizes, backend=backend, ranks="mpi", **options)
        except AgreementError as error:
            told.append(str(error))
everyones = peers().share("\\n".join(told).encode(), "what was told")
assert everyones[0] == everyones[1]
if rank == 0:
    print("\\n".join(told))
"""


@pytest.mark.slow
@needs_mpi
def test_what_is_compiled_is_agreed_on_without_training() -> None:
    """By every backend; and who disagreed once may go on to agree."""
    done = launch(2, "-c", COMPILING)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4 + 3
    graph, sizes, options, threads = (
        line.removeprefix("the ranks do not agree: ").removesuffix("; start all of them alike") for line in lines[:4]
    )
    assert graph.startswith("the graph, where it first differs, is outputs for rank 0 and Z [B, F|tp] = scale(Y)")
    assert sizes == "B is 2 for rank 0 and 3 for rank 1"
    assert options == "recompute is masks for rank 0 and full for rank 1"
    assert threads.startswith("threads on ")
    assert threads.endswith(" is 1 for rank 0 and 2 for rank 1")


OTHERWISE = """
import sys
from graphir.backends.communicator import peers
from graphir.cli import main
from graphir.launch import find_launch
peers.GRACE = 100.0
at = sys.argv.index("train")
main(sys.argv[at:] + (sys.argv[1:at] if find_launch().rank == 1 else []))
"""
OPTIONS = "--layers 1 --sequence 12 --width 24 --heads 6 --batch 4 --dp 2 --sample 0 --steps 8 --quiet"


@pytest.mark.slow
@needs_mpi
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--steps 4 --schedule-steps 8", "--steps is 8 for rank 0 and 4 for rank 1"),
        (
            "--learning-rate 0.1 --dp 1 --tp 2",
            "--learning-rate is 0.003 for rank 0 and 0.1 for rank 1; --dp is 2 for rank 0 and 1 for rank 1; --tp is 1 "
            "for rank 0 and 2 for rank 1",
        ),
        ("--text README.md", "the data is 466273 tokens of 256 kinds with the digest "),
    ],
)
def test_a_training_begins_with_ranks_that_agree(tmp_path: Path, option: str, text: str) -> None:
    """All end with code 2, are told once, and nothing is written."""
    done = launch(2, "-c", OTHERWISE, *option.split(), "train", *OPTIONS.split(), "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert words(done.stderr).startswith(f"error: the ranks do not agree: {text}")
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "run").exists()


def test_no_process_of_several_simulates_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would train by itself, and the others wait for it."""
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    with pytest.raises(ConfigError, match=r"^2 processes were started, and with --ranks simulated each of them would"):
        start_ranks("simulated")
    with pytest.raises(ConfigError, match=r"^2 processes were started, and with --backend xla each of them would"):
        start_ranks(None, "xla")
    monkeypatch.setenv("PMI_SIZE", "1")
    monkeypatch.setenv("PMI_RANK", "0")
    assert start_ranks("simulated") == ("simulated", True)


# -- fingerprints ------------------------------------------------------------------------------------------

FINGERPRINTS = """
import graphir as gi
from graphir.passes import autodiff, run_pipeline, shard
from graphir.text import fingerprint
train = autodiff(gi.models.transformer(layers=1))
local = shard(train, gi.Mesh(dp=2, tp=2), "sequence")
print([fingerprint(graph) for graph in (train, local, run_pipeline(train, "masks", (), on_gpu=False))])
"""


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process_and_others_of_other_graphs() -> None:
    told = []
    for seed in "12":
        variables = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", FINGERPRINTS], env=variables, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        told.append(done.stdout)
    assert told[0] == told[1]
    assert len(set(re.findall(r"\w{64}", told[0]))) == 3


TEXT = """graph net float32

where
  E  = 2*D

inputs
  X  [B, E]

parameters
  W  [E, D]  ~ normal(0.02)

/
  Y  [B, D]  = matmul(X, W)
  Z  [B, D]  = scale(Y) {by=0.5}

outputs
  Z
"""


def test_a_fingerprint_is_that_of_the_text() -> None:
    """Of everything in it but lines and reasons."""
    usual = fingerprint(gi.parse(TEXT))
    assert usual == fingerprint(gi.parse(gi.to_text(gi.parse(TEXT))))
    for old, new in (
        ("net", "mesh"),
        ("E  = 2*D", "E  = 3*D"),
        ("0.02", "0.03"),
        ("by=0.5", "by=0.25"),
        ("float32", "float64"),
        ("outputs\n  Z", "outputs\n  Z\n  Y"),
    ):
        assert fingerprint(gi.parse(TEXT.replace(old, new))) != usual, new
