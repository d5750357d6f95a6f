"""Replicas that have gone astray are found and named, and those that are alike never are."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.replicas import Replicas, digest
from graphir.errors import ReplicaError
from graphir.training.checkpoint import list_checkpoints
from tests.attack.ranks import FLIPPED
from tests.support.mpi import launch, needs_mpi, words

MESH = gi.Mesh(dp=3, tp=2)
SIZES = {"B": 4, "D": 6, "F": 8}


def graph() -> gi.Graph:
    """W is split over tp, b is not; G is split over both axes, so that no rank has a replica of it."""
    B, D, F = gi.dims("B D F")
    builder = gi.Builder("product", mesh=MESH)
    X = builder.input("X", (B, D))
    W = builder.parameter("W", (D, F), layout=gi.Layout(((), ("tp",))))
    b = builder.parameter("b", (D,))
    G = builder.parameter("G", (D, F), layout=gi.Layout((("dp",), ("tp",))))
    return builder.build(gi.matmul(X, W, name="Y"), b, G)


def held(whole: bool = False) -> list[dict[str, Any]]:
    """What each rank holds: its blocks, or the arrays that they are cut from."""
    rng = np.random.default_rng(0)
    W, b, G = rng.random((6, 8)).astype("float32"), rng.random(6).astype("float32"), rng.random((6, 8))
    if whole:
        return [{"W": W.copy(), "b": b.copy(), "G": G.astype("float32")} for _ in range(MESH.size)]
    return [
        {
            "W": W[:, 4 * at["tp"] : 4 * at["tp"] + 4].copy(),
            "b": b.copy(),
            "G": G[2 * at["dp"] : 2 * at["dp"] + 2, 4 * at["tp"] : 4 * at["tp"] + 4].astype("float32"),
        }
        for at in MESH.ranks
    ]


class Rank:
    """A communicator of one rank, whose reduction is done when all have begun it."""

    is_alone, mesh = False, MESH

    def __init__(self, rank: int, tables: dict[int, Any], differences: tuple[str, ...]) -> None:
        self.ranks, self.tables, self.differences = (rank,), tables, differences

    def serving(self, node: str) -> AbstractContextManager[None]:
        return nullcontext()

    def start_all_reduce(self, blocks: Any, axes: Any, reduce: str, out: Any) -> Any:
        assert (tuple(axes), reduce) == (MESH.names, "sum")
        self.tables[self.ranks[0]] = blocks[0].copy()
        return SimpleNamespace(wait=lambda: [sum(self.tables.values())])


class Ranks:
    """All ranks, which compare their replicas step by step."""

    def __init__(self, *differences: str) -> None:
        tables: dict[int, Any] = {}
        self.replicas = []
        for rank in range(MESH.size):
            executable: Any = SimpleNamespace(
                communicator=Rank(rank, tables, differences), graph=graph(), plan=SimpleNamespace(sizes=SIZES)
            )
            self.replicas.append(Replicas(executable))

    def compare(self, arrays: list[dict[str, Any]], step: int) -> str:
        """What all ranks are told, alike; nothing if their replicas are."""
        for replicas, mine in zip(self.replicas, arrays, strict=True):
            replicas.begin(mine, step)
        told = set()
        for replicas in self.replicas:
            try:
                replicas.settle()
                told.add("")
            except ReplicaError as error:
                told.add(str(error))
        (text,) = told
        return text


def flip(array: Any, bit: int) -> None:
    array.reshape(-1).view(np.uint8)[bit // 8] ^= np.uint8(1 << bit % 8)


# -- digests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 41), (0, 3), (64, 64), (200, 211)])
def test_a_digest_is_that_of_the_bits_wherever_they_lie(shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    strided = np.repeat(array[..., None], 2, axis=-1)[..., 0]
    misplaced = np.frombuffer(b"-" + array.tobytes(), np.uint8)[1:].view(dtype).reshape(shape)
    assert int(digest(array)) == int(digest(strided)) == int(digest(misplaced)) == int(digest(array.copy()))


def test_a_digest_is_the_sum_it_says() -> None:
    array = np.random.default_rng(1).integers(0, 1 << 32, 2 * 4096 + 5, "uint32")
    drawn = np.random.Generator(np.random.Philox(0)).integers(0, 1 << 64, 4096, "uint64").tolist()
    even, odd = [2 * each for each in drawn], [each | 1 for each in drawn]
    right = sum((even[i // 4096] + odd[i % 4096]) * int(word) for i, word in enumerate(array))
    assert int(digest(array)) == right % 2**64


@pytest.mark.parametrize("shape", [(3,), (10,), (33, 5), (40, 110)])
def test_a_digest_sees_every_bit_and_what_has_changed_places_or_signs(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(2).random(shape)
    usual = int(digest(array))
    for bit in range(0, 64 * array.size, 1 if array.size < 1000 else 61):
        flip(array, bit)
        assert int(digest(array)) != usual
        flip(array, bit)
    assert int(digest(array)) == usual
    for other in (-array, array[::-1], np.roll(array, 1, axis=-1), array.T, np.where(array > 0.5, -array, array)):
        assert int(digest(other)) != usual or np.array_equal(other, array)
    two = array.copy()
    two.reshape(-1)[[0, -1]] *= -1
    assert int(digest(two)) != usual


# -- who is named ------------------------------------------------------------------------------------------


def test_replicas_that_are_alike_are_left_alone_whatever_is_split() -> None:
    ranks = Ranks()
    assert ranks.compare(held(whole=True), 0) == ""
    assert ranks.compare(held(), 100) == ""
    assert Ranks("threads is 1 for rank 0 and 2 for all others").compare(held(), 100) == ""


def test_the_rank_that_has_gone_astray_is_named_with_tensor_and_step() -> None:
    ranks, arrays = Ranks(), held()
    assert ranks.compare(arrays, 100) == ""
    flip(arrays[3]["W"], 71)
    assert ranks.compare(arrays, 200) == (
        "after step 200 W float32[D, F|tp] of rank 3 (dp=1, tp=1) is not that of rank 1 (dp=0, tp=1), though they are "
        "replicas; after step 100 all replicas were alike: the memory or the program of rank 3 (dp=1, tp=1) is at "
        "fault; no checkpoint holds this, and the last one can be gone on from"
    )


def test_several_tensors_and_ranks() -> None:
    arrays = held()
    flip(arrays[2]["W"], 0)
    flip(arrays[2]["b"], 0)
    assert "W float32[D, F|tp] of rank 2 (dp=1, tp=0) is" in Ranks().compare(arrays, 1)
    assert "though they are replicas; so it is with b: the" in Ranks().compare(arrays, 1)
    arrays = held()
    for rank in (1, 4):
        arrays[rank]["b"] += 1
    assert "b float32[D] of rank 1 (dp=0, tp=1) and rank 4 (dp=2, tp=0) is not that of rank 0" in Ranks().compare(
        arrays, 1
    )


def test_of_two_that_differ_none_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    two = gi.Mesh(dp=2, tp=2)
    monkeypatch.setattr(f"{__name__}.MESH", two)
    monkeypatch.setattr(Rank, "mesh", two)
    arrays = [{"W": np.ones((6, 4), "float32"), "b": np.ones(6, "float32"), "G": np.ones((3, 4))} for _ in range(4)]
    flip(arrays[2]["W"], 3)
    text = Ranks().compare(arrays, 5)
    assert "of rank 2 (dp=1, tp=0) or rank 0 (dp=0, tp=0) is at fault" in text


def test_whole_arrays_are_everybodys_replicas_before_the_first_step() -> None:
    """One rank begins with another checkpoint, say: also of what will be split."""
    arrays = held(whole=True)
    flip(arrays[5]["G"], 8)
    assert (
        Ranks()
        .compare(arrays, 0)
        .startswith("before the first step G float32[D|dp, F|tp] of rank 5 (dp=2, tp=1) is not")
    )


def test_what_is_split_over_all_ranks_is_nobodys_replica() -> None:
    arrays = held()
    flip(arrays[5]["G"], 8)
    assert Ranks().compare(arrays, 7) == ""


def test_no_number_is_a_number_of_its_own() -> None:
    arrays = held()
    for each in arrays:
        each["b"][2] = np.nan
    assert Ranks().compare(arrays, 7) == ""


def test_where_machines_differ_last_bits_may_and_more_may_not() -> None:
    ranks, arrays = Ranks("BLAS is openblas Zen for rank 0 and openblas Haswell for all others"), held()
    for rank, each in enumerate(arrays):
        each["W"] *= np.float32(1 + 1e-6 * rank)
    assert ranks.compare(arrays, 100) == ""
    arrays[4]["W"] *= 1.01
    assert "W float32[D, F|tp] of rank 4 (dp=2, tp=0) is not that of rank 0 (dp=0, tp=0)" in ranks.compare(arrays, 200)
    arrays = held()
    arrays[1]["b"][0] = np.nan
    assert "b float32[D] of rank 1 (dp=0, tp=1) is not that of rank 0" in ranks.compare(arrays, 300)


# -- ranks that are processes ------------------------------------------------------------------------------


OPTIONS = "--layers 1 --sequence 12 --width 24 --heads 6 --batch 4 --sample 0 --validate-batches 1 --steps 8 --quiet"


@pytest.mark.slow
@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "mesh", "who", "every"),
    [
        (2, "--dp 2", 1, "2"),
        (4, "--dp 2 --tp 2 --plan sequence", 2, "100"),
    ],
)
def test_no_checkpoint_holds_a_replica_that_has_gone_astray(
    tmp_path: Path, ranks: int, mesh: str, who: int, every: str
) -> None:
    """In a training: whether it is seen on the way or only when it is to be saved."""
    options = [*OPTIONS.split(), *mesh.split(), "--checkpoint-every", "4", "--verify-replicas", every]
    done = launch(ranks, "-c", FLIPPED, who, 5, 3, "train", *options, "--out", tmp_path)
    assert done.returncode == 2
    told = words(done.stderr)
    assert "layer0/mlp/gamma float32[D] of rank" in told
    assert f"rank {who} (" in told
    assert told.count("error:") == 1
    assert f"after step {6 if every == '2' else 8} " in told
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4]


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["--dp 2 --tp 3 --plan vocabulary+zero3", "--dp 3 --cp 2"])
def test_replicas_of_a_training_stay_alike(tmp_path: Path, mesh: str) -> None:
    options = [*OPTIONS.split(), *mesh.split(), "--batch", "6", "--dropout", "0.2", "--verify-replicas", "1"]
    done = launch(6, "-m", "graphir", "train", *options, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
