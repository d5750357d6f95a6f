"""Ranks apart, as the campaign runs them: what travels between them arrives, and nobody waits for ever."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import graphir as gi
from graphir.backends.buckets import Bucket, plan_buckets
from graphir.backends.communicator.peers import RankError
from graphir.errors import CommunicationError
from graphir.ir.layout import Mesh
from tests.campaign.apart import Apart, ApartCommunicator, DisagreementError, Post
from tests.campaign.case import Case
from tests.campaign.trial import attempt
from tests.campaign.ways import Way
from tests.support.conformance import cases
from tests.support.poison import poisoned

B, S, D = gi.dims("B S D")
APART = Way("ranks apart")


def side_by_side(mesh: Mesh, work: Callable[[ApartCommunicator], Any]) -> list[Any]:
    """What `work` returns, or the error that it raises, on each rank."""
    post = Post(mesh.size)

    def run(rank: int) -> Any:
        try:
            found = work(ApartCommunicator(mesh, rank, post))
        except Exception as error:
            post.end(rank, error)
            return error
        post.end(rank)
        return found

    with ThreadPoolExecutor(mesh.size) as pool:
        return list(pool.map(run, range(mesh.size)))


# -- what arrives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(dp=2, tp=2)], ids=str)
def test_conformance(mesh: Mesh) -> None:
    def run_all(communicator: ApartCommunicator) -> str:
        for name, (_, work) in cases({str(mesh): mesh}).items():
            try:
                work(communicator)
            except Exception:
                return f"{name}\n{traceback.format_exc()}"
        return ""

    assert side_by_side(mesh, run_all) == [""] * mesh.size


@pytest.fixture
def case() -> Case:
    """The gradients of two products of X, of which each of two ranks has half of the rows."""
    block = gi.Builder("small", dtype="float64")
    X = block.input("X", (B, S))
    W, V = block.parameter("W", (S, D)), block.parameter("V", (D, S))
    L = gi.reduce_sum(gi.activation(gi.matmul(gi.activation(gi.matmul(X, W)), V)), name="L")
    sizes = {"B": 4, "S": 2, "D": 5}
    return Case(
        "sharded", block.build(L), sizes, 1, "L", ("W", "V"), mesh={"dp": 2}, plan={"inputs": {"X": "[_|dp, _]"}}
    )


@pytest.fixture
def in_poison() -> Iterator[None]:
    with poisoned():
        yield


@pytest.mark.usefixtures("in_poison")
@pytest.mark.parametrize("bucket", [0, 1, 64, None])
@pytest.mark.parametrize("trained", [False, True])
def test_what_ranks_make_apart_is_what_one_makes(case: Case, bucket: int | None, trained: bool) -> None:
    if trained:
        case = replace(case, optimizer={"kind": "adam", "epsilon": 0.01})
    outcome = attempt(case, replace(APART, threads=2, bucket=bucket, check=True, donate=trained))
    assert outcome.departure is None
    assert outcome.comparisons >= 2


@pytest.mark.parametrize(("bucket", "together"), [(0, []), (1, [1, 1, 1]), (None, [3])])
def test_all_reduces_travel_in_buckets(case: Case, bucket: int | None, together: list[int]) -> None:
    apart = replace(APART, bucket=bucket).compile(case)
    for each in apart.executables:
        assert sorted(len(found.members) for found in each._exchanges.buckets) == together


# -- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_poison")
@pytest.mark.parametrize(("check", "fault"), [(False, "other numbers"), (True, "raised ProofError")])
def test_a_result_that_is_read_before_it_has_arrived_departs(case: Case, check: bool, fault: str) -> None:
    # Two layers of ranks' sums: the second product reads what the first all-reduce brings.
    case = replace(case, plan={"inputs": {"X": "[_, _|dp]"}, "parameters": {"W": "[_|dp, _]"}})

    def too_late(*given: Any) -> list[Bucket]:
        buckets = plan_buckets(*given)
        last = sum(step.node.operator.relayout is not None for step in given[0]) + 1
        return [replace(each, due=last) for each in buckets]

    assert attempt(case, replace(APART, check=check)).departure is None
    with patch("graphir.backends.compiled.exchanges.plan_buckets", too_late):
        departure = attempt(case, replace(APART, check=check)).departure
    assert departure is not None
    assert departure.fault == fault


def test_what_is_under_way_may_not_be_written_to() -> None:
    def work(communicator: ApartCommunicator) -> None:
        block = np.ones(3)
        pending = communicator.start_all_reduce([block], ("dp",), out=[block])
        assert np.isnan(block).all()
        block[1] = 2
        pending.wait()

    for error in side_by_side(Mesh(dp=2), work):
        assert isinstance(error, CommunicationError)
        assert "writes to what is under way" in str(error) or isinstance(error, RankError)


def test_ranks_that_hold_other_bits_of_one_value_are_told(case: Case) -> None:
    apart = APART.compile(case)
    assert isinstance(apart, Apart)
    right = apart._run

    def wrong(rank: int, given: Any) -> dict[str, Any]:
        return {name: block * (1 + 1e-12 * rank) for name, block in right(rank, given).items()}

    with patch.object(apart, "_run", wrong), pytest.raises(DisagreementError, match="has other bits on rank 1"):
        apart(case.arrays())


def test_a_rank_that_fails_ends_the_others(case: Case) -> None:
    start = ApartCommunicator.start_all_reduce

    def broken(self: ApartCommunicator, *given: Any, **more: Any) -> Any:
        if self.rank == 1:
            raise RuntimeError("broken")
        return start(self, *given, **more)

    with patch.object(ApartCommunicator, "start_all_reduce", broken):
        departure = attempt(case, APART).departure
    assert departure is not None
    assert str(departure) == "raised RuntimeError: broken"


def test_nobody_waits_for_a_rank_that_has_come_to_its_end() -> None:
    def work(communicator: ApartCommunicator) -> None:
        if communicator.rank == 0:
            communicator.barrier()

    error, nothing = side_by_side(Mesh(dp=2), work)
    assert isinstance(error, RankError)
    assert "rank 0 waits for ('barrier', 1) of rank 1, which has come to its end" in str(error)
    assert nothing is None


def test_ranks_that_all_wait_for_each_other_are_told() -> None:
    def work(communicator: ApartCommunicator) -> None:
        communicator.receive(1 - communicator.rank, communicator.rank, (), "float64")

    errors = side_by_side(Mesh(dp=2), work)
    assert all(isinstance(error, RankError) and "all ranks wait" in str(error) for error in errors)


def test_what_nobody_fetches_is_told() -> None:
    post = Post(2)
    ApartCommunicator(Mesh(dp=2), 0, post).send(np.ones(2), 0, 1)
    with pytest.raises(CommunicationError, match="never fetched: a letter of rank 0 for rank 1"):
        post.begin()


# -- what is told of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bucket", "served"),
    [(0, {"L.AR", "dV.AR", "dW.AR"}), (100, {"dV.AR and 1 more", "dW.AR"}), (None, {"dW.AR and 2 more"})],
)
def test_who_is_waited_for_is_told_with_its_bucket(case: Case, bucket: int | None, served: set[str]) -> None:
    """What travels together is named after the last, with how many more there are."""
    graph, told = case.sharded, set[str]()

    class Telling(ApartCommunicator):
        def serving(self, node: str) -> AbstractContextManager[None]:
            told.add(node)
            return super().serving(node)

    with patch("tests.campaign.apart.ApartCommunicator", Telling):
        run = Apart(graph.mesh, lambda: gi.compile(graph, case.bound, bucket=bucket, ranks="mpi"))
    run(case.arrays())
    assert told == served


def test_only_what_a_run_sends_is_its_traffic(case: Case) -> None:
    """Not what others send through its communicator between two runs."""
    run = gi.compile(case.sharded, case.bound)
    first = run(case.arrays()).traffic
    run.communicator.all_reduce([np.ones(1000), np.ones(1000)], ("dp",))
    assert run(case.arrays()).traffic == first
    assert sum(each.total_bytes for each in first.values()) > 0
