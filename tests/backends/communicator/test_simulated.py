"""Simulated ranks' collectives: the conformance suite, and what each algorithm sends, by formula.

Notation: N ranks in a group, and a payload of P bytes, the block that a rank brings. Formulas are written out by
hand, after A 2.4 and A 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphir.backends.communicator import ALGORITHMS, SimulatedCommunicator, Traffic
from graphir.errors import CommunicationError, ConfigError
from graphir.ir.layout import Mesh
from tests.support.conformance import MESHES, blocks_of, cases, traffic

algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
#: What a rank is sent, and in which chunks, follows from algorithm, mesh and shape together.
PLACES = {
    f"{mesh} by {algorithm}": (mesh, algorithm)
    for mesh in (Mesh(tp=1), Mesh(tp=4), Mesh(dp=2, tp=3))
    for algorithm in ALGORITHMS
}
CASES = cases(PLACES, without=[traffic])


# -- what arrives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_conformance(name: str) -> None:
    (mesh, algorithm), case = CASES[name]
    case(SimulatedCommunicator(mesh, algorithm))


def test_conformance_of_what_a_ring_sends() -> None:
    for meshes in MESHES.values():
        for mesh in meshes:
            traffic(SimulatedCommunicator(mesh))


@algorithms
def test_all_reduce_over_several_axes(algorithm: str) -> None:
    mesh = Mesh(dp=2, tp=2, cp=2)
    blocks = blocks_of(mesh, (3,))
    found = SimulatedCommunicator(mesh, algorithm).all_reduce(blocks, ("dp", "cp"))
    for group in mesh.groups(("dp", "cp")):
        for rank in group:
            np.testing.assert_array_equal(found[rank], sum(blocks[each] for each in group))


@algorithms
def test_results_of_ranks_are_not_one_array(algorithm: str) -> None:
    """A rank that writes into its result does not write into another's."""
    mesh = Mesh(tp=3)
    communicator = SimulatedCommunicator(mesh, algorithm)
    for found in (
        communicator.all_reduce(blocks_of(mesh, (6,)), ("tp",)),
        communicator.all_gather(blocks_of(mesh, (6,)), 0, "tp"),
        communicator.broadcast(blocks_of(mesh, (6,)), ("tp",)),
    ):
        assert not any(np.shares_memory(found[i], found[j]) for i in range(3) for j in range(i))


def test_whoever_waits_for_a_message_that_was_not_sent_is_told() -> None:
    """Among real ranks it would wait for ever."""
    communicator = SimulatedCommunicator(Mesh(dp=2, tp=3))
    text = r"^rank 4 \(dp=1, tp=1\) waits for rank 1 \(dp=0, tp=1\), which has sent it nothing more; send before"
    with pytest.raises(CommunicationError, match=text):
        communicator.receive(1, 4, (2,), "float32")


def test_a_message_of_another_shape_is_told() -> None:
    communicator = SimulatedCommunicator(Mesh(tp=2))
    communicator.send(np.zeros((2, 3), "float32"), 0, 1)
    text = r"^rank 1 \(tp=1\) expects float64\[2, 3\] of rank 0 \(tp=0\), which sent float32\[2, 3\]$"
    with pytest.raises(CommunicationError, match=text):
        communicator.receive(0, 1, (2, 3), "float64")


# -- what is sent ------------------------------------------------------------------------------------------

P = 288 * 8  #: a payload of 288 numbers of 8 bytes, which 2, 3 and 4 ranks share evenly
counts = pytest.mark.parametrize("N", [2, 3, 4])


def sent(N: int, algorithm: str, call: Callable[[SimulatedCommunicator, list[Any]], object]) -> Traffic:
    communicator = SimulatedCommunicator(Mesh(tp=N), algorithm)
    call(communicator, blocks_of(communicator.mesh, (12, 24)))
    return communicator.traffic


@counts
def test_all_reduce_sends(N: int) -> None:
    def run(each: SimulatedCommunicator, blocks: list[Any]) -> object:
        return each.all_reduce(blocks, ("tp",))

    naive, direct, ring = (sent(N, algorithm, run) for algorithm in ("naive", "direct", "ring"))
    # naive: 2 (N − 1) payloads in total, all through the root
    assert naive.total_bytes == 2 * (N - 1) * P
    assert naive.bytes == [(N - 1) * P] + [P] * (N - 1)
    assert naive.messages == [N - 1] + [1] * (N - 1)
    # direct: N − 1 payloads by each
    assert direct.bytes == [(N - 1) * P] * N
    assert direct.messages == [N - 1] * N
    # ring: 2 (N − 1)/N payloads by each, in 2 (N − 1) steps
    assert ring.bytes == [2 * (N - 1) * P // N] * N
    assert ring.messages == [2 * (N - 1)] * N


@counts
def test_reduce_scatter_sends(N: int) -> None:
    def run(each: SimulatedCommunicator, blocks: list[Any]) -> object:
        return each.reduce_scatter(blocks, 0, "tp")

    naive, direct, ring = (sent(N, algorithm, run) for algorithm in ("naive", "direct", "ring"))
    assert naive.bytes == [(N - 1) * P // N] + [P] * (N - 1)
    assert direct.bytes == ring.bytes == [(N - 1) * P // N] * N
    assert direct.messages == ring.messages == [N - 1] * N


@counts
def test_all_gather_sends(N: int) -> None:
    def run(each: SimulatedCommunicator, blocks: list[Any]) -> object:
        return each.all_gather(blocks, 0, "tp")

    naive, direct, ring = (sent(N, algorithm, run) for algorithm in ("naive", "direct", "ring"))
    assert naive.bytes == [(N - 1) * N * P] + [P] * (N - 1)
    assert direct.bytes == ring.bytes == [(N - 1) * P] * N
    assert direct.messages == ring.messages == [N - 1] * N


@counts
@algorithms
def test_all_to_all_sends(N: int, algorithm: str) -> None:
    found = sent(N, algorithm, lambda each, blocks: each.all_to_all(blocks, 0, 1, "tp"))
    assert found.bytes == [(N - 1) * P // N] * N
    assert found.messages == [N - 1] * N


@counts
@algorithms
def test_uneven_chunks_add_up(N: int, algorithm: str) -> None:
    """Seven numbers do not divide: what each sends differs, the total does not."""
    communicator = SimulatedCommunicator(Mesh(tp=N), algorithm)
    communicator.all_reduce(blocks_of(communicator.mesh, (7,)), ("tp",))
    factor = N * (N - 1) if algorithm == "direct" else 2 * (N - 1)
    assert communicator.traffic.total_bytes == factor * 7 * 8


@algorithms
def test_groups_send_within_themselves(algorithm: str) -> None:
    """Two groups of three: each sends what one group of three sends; a group of one sends nothing."""
    alone, mesh = SimulatedCommunicator(Mesh(tp=3), algorithm), Mesh(dp=2, tp=3)
    alone.all_reduce(blocks_of(alone.mesh, (6,)), ("tp",))
    both = SimulatedCommunicator(mesh, algorithm)
    both.all_reduce(blocks_of(mesh, (6,)), ("tp",))
    assert both.traffic.bytes == alone.traffic.bytes * 2
    single = SimulatedCommunicator(Mesh(dp=3, tp=1), algorithm)
    single.all_reduce(blocks_of(single.mesh, (6,)), ("tp",))
    assert single.traffic == Traffic.none(3)


def test_traffic_adds_up() -> None:
    total = Traffic([1, 2], [8, 16]) + Traffic([0, 1], [0, 8])
    assert total == Traffic([1, 3], [8, 24])
    assert (total.total_messages, total.total_bytes) == (4, 32)


def test_an_unknown_algorithm() -> None:
    with pytest.raises(ConfigError, match=r"^algorithm 'tree' is unknown; choose from ring, direct, naive$"):
        SimulatedCommunicator(Mesh(tp=2), "tree")
